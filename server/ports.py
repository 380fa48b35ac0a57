"""How the server listens: addresses, connection options, and why a port cannot be had."""

import socket
from collections.abc import Sequence

import grpc

from server.errors import StartError

_CONNECTION_OPTIONS = (
    ("grpc.max_concurrent_streams", 128),  # of one connection
    ("grpc.max_allowed_incoming_connections", 4096),
    ("grpc.server_handshake_timeout_ms", 10_000),  # connections that never say a word
    ("grpc.max_connection_idle_ms", 300_000),  # and those that say no more
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


def connection_options(*, shared: bool) -> Sequence[tuple[str, int]]:
    """Give gRPC's options for what connections may cost.

    Args:
        shared: whether other processes may listen on the port; else they must fail.
    """
    return (("grpc.so_reuseport", int(shared)), *_CONNECTION_OPTIONS)


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
    try:
        with socket.create_server((host, port), family=_family(host)):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0].lower()
        raise StartError(f"cannot listen on {address_of(host, port)}: {reason}") from error


def reserve(host: str, port: int) -> socket.socket:
    """Take a port that this process itself does not listen on, for processes that share it.

    It stays theirs, whichever of them live, until what is returned is closed.

    Raises:
        StartError: it is in use, or the host is not ours.
    """
    require_free(host, port)
    reserved = socket.socket(_family(host))
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
