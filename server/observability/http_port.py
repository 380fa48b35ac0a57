"""An HTTP/1.1 port that no peer can hold: one request a connection, the whole of it bounded.

h11 parses; the limits are here. HTTP servers for Python limit what is idle (uvicorn between requests,
waitress between bytes), not the whole of a request: a head that drips keeps its seat. There is no keep-alive:
scrapes are seconds apart, and opening a connection costs less than guarding idle ones.
"""

import asyncio
import errno
import http
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import h11

EXCHANGE_S = 10.0  # Prometheus' own default of scrape_timeout: what takes longer has no reader left
# A scraper, a probe and a browser need three. The more there are, the longer a crowd that comes anew as soon
# as it is closed leaves each of them; each costs a descriptor and, unread, 64 kB of the kernel's.
_MAX_CONNECTIONS = 256
_MAX_HEAD_BYTES = 16 << 10  # h11's default; Prometheus sends about 500 bytes
_SEND_BUFFER_BYTES = 32 << 10  # in the kernel, which doubles it; by default it grows to 4 MB a connection
_READ_BYTES = 4 << 10
_CHUNK_BYTES = 64 << 10  # that a peer has to read before it counts as one that does
_MAX_UNASKED_READS = 256  # of `_READ_BYTES`, 1 MiB: a body that came with the request
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: drop what is unsent
_SEND_ON_CLOSE = struct.pack("ii", 0, 0)
_UNREAD_MS = 1000  # that the kernel goes on offering the rest to a peer that has closed its side
_AFTER_ERROR_S = 0.05  # before the next try to accept
# The system's want, or a peer that left before it was accepted: the next accept may succeed.
_PASSING_ERRORS = {
    errno.ECONNABORTED,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EPERM,
    errno.EPROTO,
}


@dataclass(frozen=True)
class Answer:
    """A response; its body may be shared with others and is not copied."""

    status: http.HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def text_answer(status: http.HTTPStatus, line: str, *headers: tuple[str, str]) -> Answer:
    """Answer with a line of plain text."""
    return Answer(status, f"{line}\n".encode(), (("Content-Type", "text/plain; charset=utf-8"), *headers))


@dataclass(eq=False)
class _Connection:
    """A peer, and whether it keeps this side waiting: for its request, or for it to read its answer."""

    peer: socket.socket
    is_stalled: bool = True
    http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
    )


class HttpPort:
    """Answers requests on a listening socket.

    Above `_MAX_CONNECTIONS` the one that has been stalled longest is closed for the newest, so that the next
    one is answered however many stall.

    Args:
        respond: gives the answer to a request; must not raise.
        exchange_s: from the connection to the last byte of the answer.
    """

    def __init__(
        self,
        listener: socket.socket,
        respond: Callable[[h11.Request], Awaitable[Answer]],
        exchange_s: float = EXCHANGE_S,
    ) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        # What is accepted inherits it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._respond = respond
        self._exchange_s = exchange_s
        self._open: dict[_Connection, asyncio.Task[None]] = {}  # stalled longest first

    async def serve(self) -> None:
        """Accept and answer until cancelled.

        Raises:
            OSError: the listening socket is of no use any more.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    peer, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    if error.errno not in _PASSING_ERRORS:
                        raise
                    if (ended := self._make_room()) is not None:
                        await asyncio.wait((ended,))  # it gives a descriptor back
                    else:
                        await asyncio.sleep(_AFTER_ERROR_S)
                    continue
                if len(self._open) >= _MAX_CONNECTIONS:
                    self._make_room()
                connection = _Connection(peer)
                self._open[connection] = loop.create_task(self._exchange(connection))
                await asyncio.sleep(0)  # a crowd that connects must not keep the others from being read
        finally:
            for task in self._open.values():
                task.cancel()
            await asyncio.gather(*self._open.values(), return_exceptions=True)

    def _make_room(self) -> asyncio.Task[None] | None:
        """End the exchange that has been stalled longest; where all wait for us, the oldest."""
        chosen = next((one for one in self._open if one.is_stalled), next(iter(self._open), None))
        if chosen is None:
            return None
        task = self._open.pop(chosen)
        task.cancel()
        return task

    def _stalls(self, connection: _Connection) -> None:
        """Take note that from now on it is the peer's turn."""
        connection.is_stalled = True
        if (task := self._open.pop(connection, None)) is not None:
            self._open[connection] = task

    async def _exchange(self, connection: _Connection) -> None:
        try:
            with suppress(OSError):  # it took too long, which is a TimeoutError, or has gone
                async with asyncio.timeout(self._exchange_s):
                    await self._answer(connection)
        finally:
            connection.peer.close()
            self._open.pop(connection, None)

    async def _answer(self, connection: _Connection) -> None:
        loop, peer = asyncio.get_running_loop(), connection.peer
        is_head = False
        try:
            request = await self._request(connection)
            is_head = request.method == b"HEAD"
            connection.is_stalled = False
            answer = await self._respond(request)
        except EOFError:
            return
        except h11.RemoteProtocolError as error:
            status = http.HTTPStatus(error.error_status_hint)
            answer = text_answer(status, status.phrase)
        self._stalls(connection)
        headers = [*answer.headers, ("Content-Length", str(len(answer.body))), ("Connection", "close")]
        head = h11.Response(status_code=answer.status, headers=headers, reason=answer.status.phrase)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the head does not wait for the body
        # What is not read must not stay in the kernel, for minutes, when this side closes.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await loop.sock_sendall(peer, connection.http.send(head) or b"")
        if not is_head:
            rest = memoryview(answer.body)
            while rest:
                await loop.sock_sendall(peer, rest[:_CHUNK_BYTES])
                rest = rest[_CHUNK_BYTES:]
                self._stalls(connection)  # anew: it does read
        # The peer closes first: closing on what it still sends would reset what it still reads.
        peer.shutdown(socket.SHUT_WR)
        for _ in range(_MAX_UNASKED_READS):
            if not await loop.sock_recv(peer, _READ_BYTES):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _SEND_ON_CLOSE)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
                return

    async def _request(self, connection: _Connection) -> h11.Request:
        """Read the head of the request; its body, if any, is not wanted.

        Raises:
            EOFError: the peer closed before it was complete.
            h11.RemoteProtocolError: it is malformed, or larger than `_MAX_HEAD_BYTES`.
        """
        loop = asyncio.get_running_loop()
        while not isinstance(event := connection.http.next_event(), h11.Request):
            if event is not h11.NEED_DATA:
                raise EOFError
            if not (data := await loop.sock_recv(connection.peer, _READ_BYTES)):
                raise EOFError
            connection.http.receive_data(data)
        return event
