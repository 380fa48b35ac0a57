"""Opens the channels of the client and of the loads; none reaches this machine through a proxy.

gRPC reads `grpc_proxy`, `https_proxy`, `http_proxy` and `GRPC_ADDRESS_HTTP_PROXY` on its own, and sends
`127.0.0.1` there too unless `no_proxy` names it. A proxy cannot reach a loopback that is not its own.
"""

import ipaddress
import re
from collections.abc import Sequence

import grpc

Options = Sequence[tuple[str, int | str]]

_DIRECT: Options = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),  # instead of the environment's
)
_SAME_HOST = frozenset({"unix", "unix-abstract"})  # schemes of gRPC's targets that never leave it
_LISTS = frozenset({"ipv4", "ipv6"})  # schemes with addresses separated by commas
# RFC 6761, section 6.3, and what the hosts files of Debian and Fedora call the loopback.
_LOCALHOST = re.compile(
    r"(.+\.)?localhost\.?|localhost[46]?(\.localdomain[46]?)?|ip6-(localhost|loopback)", re.IGNORECASE
)
_MAX_PORT = 65535
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[^:]*))?")


def open_channel(address: str, options: Options = ()) -> grpc.Channel:
    """Open a channel for blocking calls; ``options`` are gRPC's.

    Raises:
        ValueError: the address is not one.
    """
    return grpc.insecure_channel(address, [*_proxy_options(address), *options])


def open_aio_channel(address: str, options: Options = ()) -> grpc.aio.Channel:
    """Open a channel for calls on an event loop; ``options`` are gRPC's.

    Raises:
        ValueError: the address is not one.
    """
    return grpc.aio.insecure_channel(address, [*_proxy_options(address), *options])


def is_local(address: str) -> bool:
    """Return whether an address names this machine: its loopback, every interface of it, or a unix socket.

    Args:
        address: ``host:port``, or any other of gRPC's targets.

    Raises:
        ValueError: the address is not one.
    """
    scheme, endpoints = _split(address)
    return scheme in _SAME_HOST or all(_is_loopback(_host(endpoint)) for endpoint in endpoints)


def _proxy_options(address: str) -> Options:
    return _DIRECT if is_local(address) else ()


def _split(address: str) -> tuple[str, list[str]]:
    """Split a target into its scheme, empty where there is none, and its ``host:port`` parts.

    Raises:
        ValueError: it is not text that can be sent, or empty.
    """
    try:
        address.encode()
    except UnicodeEncodeError:
        raise ValueError(f"address {address!r} is not UTF-8") from None
    scheme, colon, rest = address.partition(":")
    scheme = scheme.lower()
    if colon and scheme in _SAME_HOST:
        return scheme, []
    if colon and scheme in _LISTS:
        return scheme, rest.split(",")
    if colon and scheme == "dns":
        return scheme, [rest[2:].partition("/")[2] if rest.startswith("//") else rest]
    return "", [address]


def _host(endpoint: str) -> str:
    """Return the host of ``host:port``.

    Raises:
        ValueError: there is none, or the port is out of range: gRPC takes the remainder by 65,536 for it.
    """
    match = _HOST_PORT.fullmatch(endpoint)
    if match is None:
        if _address(endpoint.rpartition(":")[0]) is not None:
            raise ValueError(f"address {endpoint!r}: an IPv6 address stands in brackets, as in [::1]:8001")
        return endpoint  # `scheme://...` of some other resolver: gRPC decides
    port = match["port"]
    if port and port.isdecimal() and not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"address {endpoint!r}: port {port} is not 1 to {_MAX_PORT}")
    host = match["host"].removeprefix("[").removesuffix("]")
    if not host.strip():
        raise ValueError(f"address {endpoint!r} names no host; write host:port")
    return host


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return _LOCALHOST.fullmatch(host) is not None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return address.is_loopback or address.is_unspecified  # a connection to the latter is one to this machine


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
