"""How the server listens: addresses, and why a port cannot be had."""

import socket

from server.errors import StartError


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
