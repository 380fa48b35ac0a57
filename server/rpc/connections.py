"""The connections of the gRPC port, and the sockets behind them.

gRPC hands a message over once it is whole; what has come of one that is not is known to the kernel alone, as
the bytes that the connection has received. And gRPC's asyncio server can end a call only by a status, which
waits behind an answer that is not read; a socket that is shut down ends all calls of its connection at once.
"""

import ipaddress
import math
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_DESCRIPTORS = Path("/proc/self/fd")
_TCP_INFO_BYTES = 256
# tcpi_bytes_acked and tcpi_bytes_received in struct tcp_info (linux/tcp.h, since Linux 4.1)
_BYTES_ACKED, _BYTES_RECEIVED = slice(120, 128), slice(128, 136)

Address = tuple[str, int]  # host and port, as numbers


class Traffic(NamedTuple):
    """What ever came by a connection, and what of all that was sent has reached its peer."""

    received_bytes: int
    acked_bytes: int


@dataclass(frozen=True)
class Socket:
    """A socket of this process that gRPC owns: it is only ever duplicated for a moment.

    A duplicate that is kept would hold the connection open after gRPC has closed its own.

    Attributes:
        descriptor: gRPC's; another file has it once the connection is closed.
        inode: tells whether it is still this socket's.
    """

    descriptor: int
    inode: int

    def traffic(self) -> Traffic | None:
        """Return what ever came and went; None where the connection is closed or the kernel does not say."""
        with suppress(OSError), self._duplicated() as duplicate:
            info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(info) >= _BYTES_RECEIVED.stop:
                received, acked = info[_BYTES_RECEIVED], info[_BYTES_ACKED]
                return Traffic(int.from_bytes(received, "little"), int.from_bytes(acked, "little"))
        return None

    def shut_down(self) -> None:
        """End the connection now, in both directions."""
        with suppress(OSError), self._duplicated() as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)

    def peer(self, port: int) -> Address | None:
        """Return the other end of a connection that came to a port; None for any other socket."""
        with suppress(OSError), self._duplicated() as duplicate:
            if duplicate.family in (socket.AF_INET, socket.AF_INET6):
                own, other = duplicate.getsockname(), duplicate.getpeername()  # OSError: it listens
                return _numeric(other[0], other[1]) if own[1] == port else None
        return None

    @contextmanager
    def _duplicated(self) -> Iterator[socket.socket]:
        """Yield a duplicate.

        Raises:
            OSError: the connection is closed.
        """
        descriptor = os.dup(self.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISSOCK(status.st_mode) or status.st_ino != self.inode:
                raise OSError("the descriptor is another file's by now")
            duplicate = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise
        with duplicate:
            yield duplicate


@dataclass(eq=False, slots=True)
class Connection:
    """One connection, from its first call until its socket is closed.

    Attributes:
        peer: the other end, as gRPC writes it.
        address: the same as the kernel has it; None where it is no internet address.
        calls: open calls, by their pool.
        held_bytes: of its messages and of its answers that are not sent.
        explained_bytes: received as far as calls and whole messages explain it.
        unfinished_bytes: received beyond that, as last measured: what messages hold that are not whole.
        answered_bytes: of answers ever sent; at least `acked_bytes`.
        acked_bytes: that have reached the peer, as last measured.
        unread_bytes: answered and in the transport's hands still, beyond `held_bytes`, as last measured.
        read_s: when the peer had last read something, or all, on the clock of `time.monotonic`.
        socket: None until it was found.
        cut: whether it was shut down.
        used_s: when its last call ended, on the clock of `time.monotonic`.
        dropped_s: when its unfinished messages were last dropped, on the same clock.
        rejections: statuses on their way to calls that were never open.
    """

    peer: str
    address: Address | None
    calls: dict[object, int] = field(default_factory=dict)
    held_bytes: int = 0
    explained_bytes: int = 0
    unfinished_bytes: int = 0
    answered_bytes: int = 0
    acked_bytes: int = 0
    unread_bytes: int = 0
    read_s: float = math.inf
    socket: Socket | None = None
    cut: bool = False
    used_s: float = -math.inf
    dropped_s: float = -math.inf
    rejections: int = 0

    @property
    def all_calls(self) -> int:
        """Return the number of open calls."""
        return sum(self.calls.values())

    def explain(self, received_bytes: int | None, explained_bytes: int) -> None:
        """Take a measurement: what is not explained by then is unfinished.

        Explanations are upper bounds (headers come compressed), so what was explained in excess is forgotten
        at every measurement, and everything is while no call is open.

        Args:
            received_bytes: of the whole connection, ever; None where it is not known.
            explained_bytes: when that was measured; what was explained since may have come since.
        """
        if received_bytes is None:
            self.unfinished_bytes = 0
            return
        self.explained_bytes -= max(0, explained_bytes - received_bytes)
        if not self.all_calls:
            self.explained_bytes = max(self.explained_bytes, received_bytes)
        self.unfinished_bytes = max(0, received_bytes - self.explained_bytes)

    def acknowledge(self, acked_bytes: int, now_s: float) -> None:
        """Take a measurement of what has reached the peer: what was answered beyond that is unread.

        What is acknowledged are frames, somewhat more than the answers in them; so where it is more, all has
        been read.
        """
        self.answered_bytes = max(self.answered_bytes, acked_bytes)
        if acked_bytes != self.acked_bytes or self.answered_bytes == acked_bytes:
            self.read_s = now_s
        self.acked_bytes = acked_bytes
        self.unread_bytes = max(0, self.answered_bytes - acked_bytes - self.held_bytes)

    def forget_unread(self) -> None:
        """Take all for read: no call is open, and streams that were reset took their answers with them."""
        self.answered_bytes = self.acked_bytes
        self.unread_bytes = 0


class Sockets:
    """Finds the sockets of a port among the descriptors of this process.

    Args:
        port: that the connections came to.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._peers: dict[Socket, Address | None] = {}  # None where it is not a connection to the port

    def find(self) -> dict[Address, Socket]:
        """Return the connections that are open, by their peer; those of last time where it cannot look."""
        try:
            names = [entry.name for entry in _DESCRIPTORS.iterdir()]
        except OSError:  # this system has none, or no descriptor is left
            names = []
        seen: dict[Socket, Address | None] = {}
        for name in names:
            with suppress(OSError):  # closed meanwhile
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    one = Socket(int(name), status.st_ino)
                    seen[one] = self._peers[one] if one in self._peers else one.peer(self._port)
        self._peers = seen if names else self._peers
        return {address: one for one, address in self._peers.items() if address is not None}


def address_of_peer(peer: str) -> Address | None:
    """Parse a peer as gRPC writes it: ``ipv4:127.0.0.1:50000``, ``ipv6:%5B::1%5D:50000``; None for others."""
    kind, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    try:
        return _numeric(host.strip("[]"), int(port))
    except ValueError:
        return None


def _numeric(host: str, port: int) -> Address:
    """Write an address in one way only: IPv4 that came to an IPv6 socket is IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), port
