"""One open call: what it holds, and how long it waits for its peer.

What a call reads and writes goes through here, so that each byte is counted until it is sent. A call that
waits for its peer can be evicted: because it has waited too long, or because others need what it holds. One
that computes ends only with its connection, where that is cut.
"""

import asyncio
import time
from contextvars import ContextVar
from typing import Protocol

from server.errors import MissingMessageError, ModelZooError
from server.observability.metrics import PeerLimit
from server.rpc.connections import Connection
from server.rpc.context import Context
from server.rpc.in_flight import InFlight
from server.rpc.limits import WORTHWHILE_RATIO, Pool

_PEER: ContextVar[str] = ContextVar("peer", default="")

# What a connection receives beside messages: a frame's header for every 16 kB, a message's prefix and window
# updates. Upper bounds: see `Connection.explain`.
_FRAME_BYTES, _FRAME_HEADER_BYTES, _MESSAGE_BYTES = 16_384, 9, 64
_READ_BYTES = 256  # of an answer, for each byte by which its peer says what it has read; far fewer, as a rule


class OpenCalls(Protocol):
    """All open calls, as one of them sees them; see `Calls`."""

    in_flight: InFlight
    probes: Pool
    waiting: "dict[Call, None]"

    def count(self, limit: PeerLimit, /) -> None:
        """Count a call that was ended because of its peer."""

    def explain(self, connection: Connection, size_bytes: int) -> None:
        """Account for bytes that a connection has received."""

    def require_share(self, connection: Connection) -> None:
        """Reject what came last, if its connection holds too much."""

    def require_room(self, connection: Connection) -> None:
        """Reject what came last, if it is too much."""

    def cut(self, connection: Connection, limit: PeerLimit, reason: str) -> bool:
        """End a connection and all of its calls."""

    def ended(self, call: "Call") -> None:
        """Count a call out."""


class Call:
    """An open call; it ends with `end`, which is called whatever becomes of it.

    Attributes:
        evicted: why it ends although its handler waits for the peer; None where it does not.
        held_bytes: of its messages, and of answers that are not sent.
        requests: messages that were read, and have no answer sent yet.
        waits_since_s: for its peer, on the clock of `time.monotonic`; None while it does not wait.
        writes: whether it sends, so that what it waits for is an answer to be read.
    """

    __slots__ = (
        *("connection", "evicted", "held_bytes", "pool", "requests", "waits_since_s", "writes"),
        *("_calls", "_context", "_reads", "_task"),
    )

    def __init__(self, calls: OpenCalls, context: Context, connection: Connection, pool: Pool) -> None:
        self.connection = connection
        self.pool = pool
        self.evicted: ModelZooError | None = None
        self.held_bytes = self.requests = 0
        self.waits_since_s: float | None = None
        self.writes = False
        self._reads = False
        self._calls = calls
        self._context = context
        self._task = asyncio.current_task()

    def header(self, name: str | None) -> str | bytes | None:
        """Return a header of the call; None where it has none of that name."""
        return next((value for key, value in self._context.headers() if key == name), None)

    async def read(self) -> bytes | None:
        """Wait for the next message; None where the peer sends no more.

        The message counts as a request in flight until `leave`, or the end of the call.
        """
        self._reads = True
        self._note_wait()
        body = await self._context.read()
        self._reads = False
        if body is None:
            self._note_wait()
            return None
        frames = len(body) // _FRAME_BYTES + 1
        self._calls.explain(self.connection, len(body) + frames * _FRAME_HEADER_BYTES + _MESSAGE_BYTES)
        self.enter(len(body), 1)
        return body

    async def read_one(self) -> bytes:
        """Wait for the one message that a method takes.

        Raises:
            MissingMessageError: the peer sends none.
        """
        body = await self.read()
        if body is None:
            raise MissingMessageError("no request message; this method takes one")
        return body

    async def write(self, *bodies: bytes) -> None:
        """Send messages, and wait until the transport has taken them off our hands."""
        self.sending(sum(map(len, bodies)))
        await self._context.write(bodies)
        self.writes = False
        self._end_wait()
        self._note_wait()

    def sending(self, size_bytes: int) -> None:
        """Note that an answer, or a status, is sent from here on."""
        # The peer says what it has read.
        self._calls.explain(self.connection, _MESSAGE_BYTES + size_bytes // _READ_BYTES)
        self.connection.answered_bytes += size_bytes
        self.writes = True
        self._end_wait()  # each answer has a wait of its own
        self._note_wait()

    def rejecting(self) -> None:
        """Note that a status is sent from here on, and that nothing is held for an answer any more."""
        self._reads = False
        self.leave(self.held_bytes)  # the request counts until the end: a stop waits for its status
        self.sending(0)

    def idle(self) -> None:
        """Note that the call waits for something else than its peer; it may end to make room for others."""
        self._reads = True
        self._note_wait()

    def enter(self, size_bytes: int, requests: int = 0) -> None:
        """Hold bytes until `leave`, or the end of the call."""
        self.held_bytes += size_bytes
        self.requests += requests
        self.connection.held_bytes += size_bytes
        self._calls.in_flight.enter(size_bytes, requests)
        self._note_wait()

    def leave(self, size_bytes: int, requests: int = 0) -> None:
        """Hold bytes no more."""
        self.held_bytes -= size_bytes
        self.requests -= requests
        self.connection.held_bytes -= size_bytes
        self._calls.in_flight.leave(size_bytes, requests)
        self._note_wait()

    def require_room(self) -> None:
        """Reject what was entered last, if it is too much; never a health check: its messages are small.

        Raises:
            OverloadedError: all requests in flight, or those of this connection, are too large together.
        """
        if self.pool is not self._calls.probes:
            self._calls.require_room(self.connection)

    def require_room_for_answer(self, size_bytes: int) -> None:
        """Reject an answer that was entered last: a small one only for what its own connection holds.

        Raises:
            OverloadedError: see `require_room`.
        """
        if size_bytes > self._calls.in_flight.max_bytes * WORTHWHILE_RATIO:
            self.require_room()
        elif self.pool is not self._calls.probes:
            self._calls.require_share(self.connection)

    def evict(self, error: ModelZooError, limit: PeerLimit) -> None:
        """End the call while it waits for its peer."""
        if self._task is None:
            return
        if self.writes or self.connection.unread_bytes:
            # No status overtakes an answer that is not read.
            if self._calls.cut(self.connection, limit, str(error)):
                self.evicted = self.evicted or error
        elif self.evicted is None:
            self.evicted = error
            self._calls.count(limit)
            self._task.cancel()

    def end(self) -> None:
        """Return back everything that the call holds."""
        self._reads = self.writes = False
        self.leave(self.held_bytes, self.requests)
        self._calls.ended(self)
        self._task = None

    def _note_wait(self) -> None:
        """Keep the list of waiting calls: those that send, or that read and have nothing else to do."""
        if self.writes or (self._reads and not self.requests):
            if self.waits_since_s is None:
                self.waits_since_s = time.monotonic()
                self._calls.waiting[self] = None
        else:
            self._end_wait()

    def _end_wait(self) -> None:
        if self.waits_since_s is not None:
            self.waits_since_s = None
            del self._calls.waiting[self]


def answer_to(peer: str) -> None:
    """Set the peer of the call that this task answers; tasks that it creates inherit it."""
    _PEER.set(peer)


def current_peer() -> str:
    """Return the peer of the call that this task answers, as gRPC writes it; empty where it answers none."""
    return _PEER.get()
