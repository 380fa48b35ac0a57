"""The gRPC services: what their methods answer."""
