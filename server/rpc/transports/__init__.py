"""How calls come in: gRPC's own server, or an HTTP/2 server of another kind; handlers do not know which."""
