"""How the server listens: addresses, connection options, and why a port cannot be had."""

import socket
from collections.abc import Sequence

import grpc

from server.errors import StartError

CONNECTION_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.max_concurrent_streams", 128),  # of one connection
    ("grpc.max_allowed_incoming_connections", 4096),
    ("grpc.server_handshake_timeout_ms", 10_000),  # connections that never say a word
    ("grpc.max_connection_idle_ms", 300_000),  # and those that say no more
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class GenericOnly:
    """A server that leaves out `add_registered_method_handlers`.

    Generated code registers every method twice over, as a generic handler and by name; each name costs
    every call of an asyncio server time (11 % with 20 of them), and wins nothing here.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Leave the names out."""


def address_of(host: str, port: int) -> str:
    """Write an address as gRPC and URLs do: IPv6 wants brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_free(host: str, port: int) -> None:
    """Find out that a port can be listened on, and else why; gRPC itself does not tell.

    Raises:
        StartError: it is in use, or the host is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0].lower()
        raise StartError(f"cannot listen on {address_of(host, port)}: {reason}") from error
