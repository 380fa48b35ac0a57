"""The calls that are open: how many, what they hold, and how long they wait for their peers.

Every call is admitted to a pool, and what it reads and writes goes through it, so that each byte is counted
until it is sent. A call that waits for its peer can be evicted: because it has waited too long, or because
others need what it holds. Calls that compute are never evicted.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

import grpc
from structlog.typing import FilteringBoundLogger

from server.errors import MissingMessageError, ModelZooError, OverloadedError
from server.in_flight import RETRY_DELAY_S, InFlight
from server.metrics import PeerLimit
from server.rpc.connections import Connection, address_of_peer
from server.rpc.limits import Limits, Pool

Context = grpc.aio.ServicerContext[bytes, bytes]

# What a connection receives beside messages: a frame's header for every 16 kB, a message's prefix and a
# request's pseudo headers, and window updates. Upper bounds: see `Connection.explain`.
_FRAME_BYTES, _FRAME_HEADER_BYTES, _MESSAGE_BYTES, _CALL_BYTES = 16_384, 9, 64, 256
_TURNS = 4  # of the event loop, in which gRPC's cancellation of a call gets to its task
_HEADER_BYTES = 8  # of one header, beside its name and value


class Call:
    """An open call; it ends with `end`, which gRPC calls whatever becomes of it.

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

    def __init__(self, calls: "Calls", context: Context, connection: Connection, pool: Pool) -> None:
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
        return next((value for key, value in self._context.invocation_metadata() or () if key == name), None)

    async def read(self) -> bytes | None:
        """Wait for the next message; None where the peer sends no more.

        The message counts as a request in flight until `leave`, or the end of the call.
        """
        self._reads = True
        self._note_wait()
        body = await self._context.read()
        self._reads = False
        if not isinstance(body, bytes):
            self._note_wait()
            # Where gRPC has ended the call itself (the message is too large), that comes before this returns.
            await self._context.read()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
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

    async def write(self, body: bytes) -> None:
        """Send a message, and wait until gRPC has taken it off our hands."""
        self.sending()
        await self._context.write(body)
        self.writes = False
        self._end_wait()
        self._note_wait()

    def sending(self) -> None:
        """Note that gRPC sends an answer from here on."""
        self.writes = True
        self._end_wait()  # each answer has a wait of its own
        self._note_wait()

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
        """Reject what was entered last, if it is too much.

        Raises:
            OverloadedError: all requests in flight, or those of this connection, are too large together.
        """
        self._calls.require_room(self.connection)

    def evict(self, error: ModelZooError, limit: PeerLimit) -> None:
        """End the call while it waits for its peer."""
        if self.evicted is not None or self._task is None:
            return
        self.evicted = error
        if self.writes:
            # No status overtakes an answer that is not read.
            self._calls.cut(self.connection, limit, str(error))
        else:
            self._calls.count(limit)
            self._task.cancel()

    def end(self, _: object = None) -> None:
        """Give back everything that the call holds."""
        if self._reads:
            # Its share of what is unfinished, which is not wanted any more.
            self._calls.explain(
                self.connection, self.connection.unfinished_bytes // self.connection.all_calls
            )
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


class Calls:
    """All open calls of this process; lives on the event loop.

    Attributes:
        in_flight: the bytes and requests of all of them.
        ordinary: the pool of calls that ask for something.
        probes: of health checks, which are answered whatever else happens.
        watches: of calls that wait for a change of health.
        waiting: calls that wait for their peers, the longest first.
        connections: that have calls, or had and are still open, by their peer.
        pressed: whether a request was rejected for want of room; `Guard` makes some.
    """

    def __init__(
        self,
        limits: Limits,
        in_flight: InFlight,
        log: FilteringBoundLogger,
        count: Callable[[PeerLimit], None] = lambda _: None,
    ) -> None:
        self.limits = limits
        self.count = count
        self.pressed = False
        self._log = log
        self.in_flight = in_flight
        self.ordinary = Pool("calls", limits.max_calls, limits.max_calls_per_connection)
        self.probes = Pool("health checks", 1024, 256)
        self.watches = Pool("watches of health", 1024, 256)
        self.waiting: dict[Call, None] = {}
        self.connections: dict[str, Connection] = {}

    def admit(self, context: Context, pool: Pool) -> Call:
        """Open a call.

        Raises:
            OverloadedError: too many are open, of this connection or in all, and none of them can be evicted.
        """
        peer = context.peer()
        connection = self.connections.get(peer)
        if connection is None:
            connection = self.connections[peer] = Connection(peer, address_of_peer(peer))
        headers = context.invocation_metadata() or ()
        connection.explained_bytes += _CALL_BYTES + sum(
            len(name) + len(value) + _HEADER_BYTES for name, value in headers
        )
        of_connection = connection.calls.get(pool, 0)
        if of_connection >= pool.share:
            raise OverloadedError(
                f"{pool.name} of this connection: {of_connection} of {pool.share} open", RETRY_DELAY_S
            )
        if pool.calls >= pool.limit and not self._make_room(pool):
            raise OverloadedError(f"{pool.name}: {pool.calls} of {pool.limit} open", RETRY_DELAY_S)
        call = Call(self, context, connection, pool)
        context.add_done_callback(call.end)  # type: ignore[arg-type] # it passes the context, and no more
        pool.calls += 1
        connection.calls[pool] = of_connection + 1
        return call

    def explain(self, connection: Connection, size_bytes: int) -> None:
        """Account for a whole message, so that it is not unfinished any more."""
        connection.explained_bytes += size_bytes
        finished = min(connection.unfinished_bytes, size_bytes)
        connection.unfinished_bytes -= finished
        self.in_flight.unfinished_bytes -= finished

    def ended(self, call: Call) -> None:
        """Count a call out; `Call.end` calls it."""
        connection, pool = call.connection, call.pool
        pool.calls -= 1
        connection.calls[pool] -= 1
        if not connection.all_calls:
            self.explain(connection, connection.unfinished_bytes)

    def require_room(self, connection: Connection) -> None:
        """Reject the request that came last, if it is too much.

        Raises:
            OverloadedError: all requests in flight, or those of this connection, are too large together.
        """
        limit = self.limits.max_bytes_per_connection
        if connection.held_bytes > limit:
            raise OverloadedError(
                f"bytes in flight of this connection: {connection.held_bytes:,} of {limit:,}", RETRY_DELAY_S
            )
        try:
            self.in_flight.require_room()
        except OverloadedError:
            self.pressed = True
            raise

    def cut(self, connection: Connection, limit: PeerLimit, reason: str) -> None:
        """End a connection and all of its calls."""
        if connection.socket is not None and not connection.cut:
            connection.cut = True
            self.count(limit)
            self._log.warning("connection_cut", peer=connection.peer, reason=reason)
            connection.socket.shut_down()

    def waiting_longer(self, than_s: float, now_s: float) -> Iterator[Call]:
        """Yield the calls that have waited longer than a time."""
        for call in self.waiting:
            if call.waits_since_s is None or now_s - call.waits_since_s < than_s:
                return
            yield call

    def _make_room(self, pool: Pool) -> bool:
        """Evict a call of a pool, if any waits: the longest waiting one of the connection that has most."""
        longest: dict[Connection, Call] = {}
        for call in self.waiting:
            if call.pool is pool and call.evicted is None and not call.writes:
                longest.setdefault(call.connection, call)
        if not longest:
            return False
        busiest = max(longest, key=lambda connection: connection.calls[pool])
        longest[busiest].evict(
            OverloadedError(f"{pool.name}: {pool.limit} open, this one waited longest", RETRY_DELAY_S),
            "calls",
        )
        return True
