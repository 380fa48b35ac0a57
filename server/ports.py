"""How the server listens: addresses, and why a port cannot be had."""

import errno
import ipaddress
import os
import socket
from typing import Any

from server.errors import StartError

_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - the names of every interface, not a choice of it
_BROADCAST = "255.255.255.255"
_SHOWN_CHARACTERS = 100  # of a host that is refused
_BACKLOG = 1024  # connections that the kernel holds until they are accepted; it may hold fewer (somaxconn)


def address_of(host: str, port: int) -> str:
    """Write an address as gRPC and URLs do: IPv6 wants brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str) -> str:
    """Find the one numeric address that a host means, so that all ports are probed and bound on the same.

    A name may have several addresses, and every library binds another choice of them. IPv4 is preferred.

    Raises:
        StartError: the host is empty, or no address is known for it.
    """
    if not host:
        raise StartError("host is empty; give an address, or 0.0.0.0 for every interface")
    shown = ascii(host[:_SHOWN_CHARACTERS])
    # The system's resolver ends a name at a NUL, and passes over what follows a blank.
    if not host.isprintable() or any(map(str.isspace, host)):
        raise StartError(f"cannot listen on host {shown}: not a host name")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartError(f"cannot listen on host {shown}: {reason}") from error
    except ValueError as error:  # it cannot be encoded, or a part of it is empty or too long
        raise StartError(f"cannot listen on host {shown}: not a host name") from error
    *_, (numeric, _, *more) = min(found, key=lambda one: one[0])  # AF_INET is smaller than AF_INET6
    scope = more[1] if more else 0
    address = ipaddress.ip_address(f"{numeric}%{socket.if_indextoname(scope)}" if scope else numeric)
    if address.is_multicast or str(address) == _BROADCAST:
        raise StartError(f"cannot listen on host {shown}: an address of many machines")
    return str(getattr(address, "ipv4_mapped", None) or address)


def dialable(host: str) -> str:
    """Return an address that reaches a server on this machine that listens on a numeric host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a key, nothing is bound


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port, alone.

    Args:
        port: 0 for whatever is free.

    Raises:
        StartError: it is in use, may not be had, or the host is not ours.
    """
    return _bound(host, port, shared=False)


def require_free(host: str, port: int) -> None:
    """Require that a port can be listened on; gRPC itself gives no reason why not.

    Raises:
        StartError: it is in use, may not be had, or the host is not ours.
    """
    listen(host, port).close()


def reserve(host: str, port: int) -> socket.socket:
    """Take a port without listening on it, for listeners that share it (SO_REUSEPORT).

    It stays theirs, whichever of them live, until what is returned is closed.

    Raises:
        StartError: it is in use, may not be had, or the host is not ours.
    """
    require_free(host, port)
    return _bound(host, port, shared=True)


def listen_shared(host: str, port: int) -> socket.socket:
    """Listen on a port that is reserved.

    Raises:
        StartError: it may not be had.
    """
    listener = _bound(host, port, shared=True)
    listener.listen(_BACKLOG)
    return listener


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """Bind exactly what gRPC binds for a numeric host, and listen unless the port is shared."""
    try:
        family, address = _socket_address(host, port)
        bound = socket.socket(family)
        try:
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # REUSEADDR is for a port that connections linger on; it admits no second listener.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            bound.bind(address)
            if not shared:
                bound.listen(_BACKLOG)
        except BaseException:
            bound.close()
            raise
    except (OSError, ValueError) as error:
        raise StartError(f"cannot listen on {address_of(host, port)}: {_reason(error)}") from error
    return bound


def _socket_address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the address as sockets want it; both wildcards mean IPv4 and IPv6, as they do to gRPC."""
    if host in _WILDCARDS:
        return (socket.AF_INET6, ("::", port)) if _has_ipv6() else (socket.AF_INET, ("0.0.0.0", port))  # noqa: S104
    ((family, _, _, _, address), *_) = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    return family, address


def _has_ipv6() -> bool:
    """Return whether a wildcard takes in IPv6: where the loopback has it, which is gRPC's own question."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    reason = (error.strerror or str(error)).lower()
    if error.errno in {errno.EACCES, errno.EPERM}:
        needed = "a port below 1024 needs CAP_NET_BIND_SERVICE"
        return f"{reason} for uid {os.geteuid()}; {needed}"
    return reason
