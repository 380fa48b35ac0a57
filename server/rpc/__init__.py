"""The gRPC port: calls are accepted, bounded, read, answered and counted here."""
