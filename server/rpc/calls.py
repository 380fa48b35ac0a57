"""The calls that are open: how many there may be, by connection and in all, and which give way to others."""

import time
from collections.abc import Callable, Iterator

from structlog.typing import FilteringBoundLogger

from server.errors import OverloadedError
from server.observability.metrics import PeerLimit
from server.rpc.call import Call
from server.rpc.connections import Connection, address_of_peer
from server.rpc.context import Context
from server.rpc.in_flight import RETRY_DELAY_S, InFlight
from server.rpc.limits import LITTLE_RATIO, RESERVE_RATIO, Limits, Pool

# What a connection receives for a call beside messages. Upper bounds: see `Connection.explain`.
_CALL_BYTES = 256  # pseudo headers and frames
_HEADERS_BYTES = 1024  # of a call, at the most: headers that come again take a byte on the wire
_LOOKS = 256  # at waiting calls, the longest first, for one that makes room
_HEADER_BYTES = 8  # of one header, beside its name and value


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
        most = min(1024, limits.max_calls)
        self.probes = Pool("health checks", most, min(256, most))
        self.watches = Pool("watches of health", most, min(256, most))
        self.waiting: dict[Call, None] = {}
        self.connections: dict[str, Connection] = {}

    def admit(self, context: Context, pool: Pool) -> Call:
        """Open a call.

        Raises:
            OverloadedError: too many are open, of this connection or in all, and none of them can be evicted.
        """
        connection = self._connection(context)
        of_connection = connection.calls.get(pool, 0)
        if of_connection >= pool.share:
            self._note_rejection(context, connection)
            raise OverloadedError(
                f"{pool.name} of this connection: {of_connection} of {pool.share} open", RETRY_DELAY_S
            )
        if pool.calls >= pool.limit and not self._make_room(pool):
            self._note_rejection(context, connection)
            raise OverloadedError(f"{pool.name}: {pool.calls} of {pool.limit} open", RETRY_DELAY_S)
        call = Call(self, context, connection, pool)
        context.on_end(call.end)
        pool.calls += 1
        connection.calls[pool] = of_connection + 1
        return call

    def _connection(self, context: Context) -> Connection:
        """Return the connection that a call came by, its headers explained."""
        peer = context.peer()
        connection = self.connections.get(peer)
        if connection is None:
            connection = self.connections[peer] = Connection(peer, address_of_peer(peer))
        size_bytes = sum(len(name) + len(value) + _HEADER_BYTES for name, value in context.headers())
        connection.explained_bytes += _CALL_BYTES + min(_HEADERS_BYTES, size_bytes)
        return connection

    def _note_rejection(self, context: Context, connection: Connection) -> None:
        """Count a status that a peer may not read; cut the connection where it reads none."""

        def sent() -> None:
            connection.rejections -= 1

        connection.rejections += 1
        context.on_end(sent)
        if connection.rejections > self.limits.max_calls_per_connection:
            self.cut(connection, "calls", f"{connection.rejections} rejections not read")

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
            connection.used_s = time.monotonic()
            self.explain(connection, connection.unfinished_bytes)
            connection.forget_unread()

    def require_share(self, connection: Connection) -> None:
        """Reject the request that came last, if its connection holds too much.

        Raises:
            OverloadedError: the requests in flight of this connection are too large together.
        """
        limit = self.limits.max_bytes_per_connection
        if connection.held_bytes > limit:
            raise OverloadedError(
                f"bytes in flight of this connection: {connection.held_bytes:,} of {limit:,}", RETRY_DELAY_S
            )

    def require_room(self, connection: Connection) -> None:
        """Reject the request that came last, if it is too much.

        A connection that holds little has a reserve: what others hold does not lock it out.

        Raises:
            OverloadedError: all requests in flight, or those of this connection, are too large together.
        """
        self.require_share(connection)
        room = self.in_flight.max_bytes
        reserve_bytes = room * RESERVE_RATIO if connection.held_bytes <= room * LITTLE_RATIO else 0
        try:
            self.in_flight.require_room(reserve_bytes)
        except OverloadedError:
            self.pressed = True
            raise

    def cut(self, connection: Connection, limit: PeerLimit, reason: str) -> bool:
        """End a connection and all of its calls; return whether it is, or was."""
        if connection.socket is not None and not connection.cut:
            connection.cut = True
            self.count(limit)
            self._log.warning("connection_cut", peer=connection.peer, reason=reason)
            connection.socket.shut_down()
        return connection.cut

    def waiting_longer(self, than_s: float, now_s: float) -> Iterator[Call]:
        """Yield the calls that have waited longer than a time."""
        for call in self.waiting:
            if call.waits_since_s is None or now_s - call.waits_since_s < than_s:
                return
            yield call

    def _make_room(self, pool: Pool) -> bool:
        """Evict a call of a pool, if any waits: the longest waiting one of the connection that has most."""
        longest: dict[Connection, Call] = {}
        looks = _LOOKS
        for call in self.waiting:
            if call.pool is pool and call.evicted is None and not call.writes:
                longest.setdefault(call.connection, call)
                looks -= 1
                if not looks:
                    break
        if not longest:
            return False
        busiest = max(longest, key=lambda connection: connection.calls[pool])
        longest[busiest].evict(
            OverloadedError(f"{pool.name}: {pool.limit} open, this one waited longest", RETRY_DELAY_S),
            "calls",
        )
        return True
