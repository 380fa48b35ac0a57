"""What keeps calls in bounds while they wait: no peer holds memory, calls or connections for long."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from server import machine
from server.errors import IdleCallError, OverloadedError
from server.rpc.calls import Calls
from server.rpc.connections import Connection, Socket, Sockets
from server.rpc.in_flight import RETRY_DELAY_S
from server.rpc.limits import WORTHWHILE_RATIO

_TICK_S = 0.1  # at 1 GB/s, a fifth of `max_bytes_in_flight` comes in that time
_SCAN_TICKS = 10  # connections without calls are looked for so often
_GIVE_BACK_TICKS = 50
_KEPT_BYTES = 64 << 20  # of freed memory; to give back less is not worth the time
_MUCH_RATIO = 1 / 4  # of the room in all, held by unfinished messages
_AGAIN_S = 60.0  # twice dropped within it, a connection with unfinished messages is closed
_PRESSED_STALL_S = 2.0  # without room, an answer that is not read for so long ends its connection
_CROWDED_RATIO = 0.75  # of the connections that may be: from here on, idle ones are closed

Result = TypeVar("Result")


class Guard:
    """Watches over open calls; lives on the event loop.

    Args:
        calls: of this process.
        counts_unread: whether the transport holds answers that calls count no more, so that what its peers
            have not read must be measured.
    """

    def __init__(self, calls: Calls, log: FilteringBoundLogger, *, counts_unread: bool = False) -> None:
        self._calls = calls
        self._counts_unread = counts_unread
        self._log = log
        self._idle_since_s: dict[Socket, float] = {}
        self._scanned_s = time.monotonic()
        self._closing: set[Socket] = set()  # shut down, and not closed by gRPC yet
        self._crowded = False
        self._thread: ThreadPoolExecutor | None = None
        self._kept_bytes = machine.resident_memory_bytes()  # after memory was given back, without requests

    async def watch(self, sockets: Sockets) -> None:
        """Evict what has waited too long or holds too much, until cancelled.

        Args:
            sockets: of the port that the connections come to.
        """
        # A thread of its own: whatever requests have asyncio's threads do, it never waits for them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")
        tick = 0
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                tick += 1
                await self._look(sockets, all_=self._crowded or tick % _SCAN_TICKS == 0)
                if tick % _GIVE_BACK_TICKS == 0:
                    await self._give_back()
        finally:
            self._thread.shutdown(wait=False)

    async def _off_the_loop(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _look(self, sockets: Sockets, *, all_: bool) -> None:
        now_s = time.monotonic()
        self._evict_idle(now_s)
        if all_ or any(
            one.all_calls and one.address and one.socket is None for one in self._calls.connections.values()
        ):
            await self._scan(sockets, now_s)
        await self._measure(now_s)

    async def _give_back(self) -> None:
        """Return the memory of large requests back once they have ended: the C library would keep it."""
        if machine.resident_memory_bytes() <= self._kept_bytes + _KEPT_BYTES:
            return
        await self._off_the_loop(machine.give_back_freed_memory)
        room = self._calls.in_flight
        if room.idle.is_set() and not room.unfinished_bytes:  # what is left is no request's
            self._kept_bytes = machine.resident_memory_bytes()

    def _evict_idle(self, now_s: float) -> None:
        limit_s = self._calls.limits.max_idle_s
        for call in list(self._calls.waiting_longer(limit_s, now_s)):
            if call.pool is self._calls.watches and not call.writes:
                continue  # it waits for a change
            what = "answer not read" if call.writes else "no message"
            call.evict(IdleCallError(f"{what} within {limit_s:g} s; call again"), "idle")

    async def _scan(self, sockets: Sockets, now_s: float) -> None:
        """Find the sockets of connections, forget closed ones, and close idle ones where there are many."""
        found = await self._off_the_loop(sockets.find)
        # By socket: when its last call ended; of one that never had any, see `_idle_since_s`.
        idle = dict.fromkeys(found.values(), -math.inf)
        for peer, connection in list(self._calls.connections.items()):
            socket = None if connection.address is None else found.get(connection.address)
            connection.cut &= socket == connection.socket  # the port of a peer may come again
            connection.socket = socket
            if socket is None:
                self._calls.explain(connection, connection.unfinished_bytes)
            if socket is None and not connection.all_calls:
                del self._calls.connections[peer]
            elif socket is not None and connection.all_calls:
                del idle[socket]
            elif socket is not None:
                idle[socket] = connection.used_s
        # A connection without calls is idle since its last call, or since it came: after the scan before the
        # first that saw it.
        self._idle_since_s = {
            one: max(self._idle_since_s.get(one, self._scanned_s), used_s) for one, used_s in idle.items()
        }
        self._scanned_s = now_s
        self._closing |= {one.socket for one in self._calls.connections.values() if one.cut and one.socket}
        self._closing &= set(found.values())
        crowd = len(found) - len(self._closing) - int(self._calls.limits.max_connections * _CROWDED_RATIO)
        self._crowded = crowd > 0
        if self._crowded:
            self._thin_out(crowd)

    def _thin_out(self, crowd: int) -> None:
        """Close connections that do nothing: first those without calls, then those with calls that wait."""
        idle = sorted(self._idle_since_s.keys() - self._closing, key=self._idle_since_s.__getitem__)
        waiting: dict[Connection, int] = {}
        for call in self._calls.waiting:
            waiting[call.connection] = waiting.get(call.connection, 0) + 1
        idle += [
            one.socket
            for one, calls in waiting.items()
            if one.socket and calls == one.all_calls and one.socket not in self._closing
        ]
        self._log.warning("idle_connections_closed", connections=min(crowd, len(idle)))
        for one in idle[:crowd]:
            self._calls.count("connections")
            one.shut_down()
            self._closing.add(one)

    async def _measure(self, now_s: float) -> None:
        """Measure what is unfinished, and end the calls that hold too much of it."""
        connections = [
            one for one in self._calls.connections.values() if one.all_calls and one.socket is not None
        ]
        if not connections:
            self._calls.in_flight.unfinished_bytes = 0
            return
        before = [one.explained_bytes for one in connections]
        measured = await self._off_the_loop(
            lambda: [None if one.socket is None else one.socket.traffic() for one in connections]
        )
        for connection, traffic, explained in zip(connections, measured, before, strict=True):
            connection.explain(None if traffic is None else traffic.received_bytes, explained)
            if self._counts_unread and traffic is not None:
                connection.acknowledge(traffic.acked_bytes, now_s)
                if connection.unread_bytes and now_s - connection.read_s > self._calls.limits.max_idle_s:
                    self._calls.cut(connection, "idle", "answers not read")
        held = sum(one.unfinished_bytes + one.unread_bytes for one in connections)
        self._calls.in_flight.unfinished_bytes = held
        limit = self._calls.limits.max_bytes_per_connection
        room = self._calls.in_flight
        # Many connections that hold little are as bad as one that holds much: then none is too small.
        many = room.unfinished_bytes > room.max_bytes * _MUCH_RATIO
        worthwhile = 0 if many else room.max_bytes * WORTHWHILE_RATIO
        for connection in sorted(connections, key=lambda one: one.unfinished_bytes, reverse=True):
            held_bytes = connection.held_bytes + connection.unread_bytes
            too_much = connection.unfinished_bytes + held_bytes > limit
            if connection.unfinished_bytes > worthwhile and (too_much or self._has_no_room):
                self._evict_unfinished(connection, now_s)
                self._calls.pressed = False
        if self._has_no_room:
            self._cut_unread(now_s)
            self._calls.pressed = False

    @property
    def _has_no_room(self) -> bool:
        return self._calls.pressed or self._calls.in_flight.excess_bytes > 0

    def _evict_unfinished(self, connection: Connection, now_s: float) -> None:
        """End all calls of a connection that wait for messages; where that does not help, end the connection.

        What lies in calls that are not accepted yet is out of reach otherwise.
        """
        waiting = [
            call
            for call in self._calls.waiting
            if call.connection is connection and not call.writes and call.evicted is None
        ]
        unfinished = connection.unfinished_bytes
        reason = f"{unfinished:,} bytes of unfinished messages on this connection; the server has no room"
        self._log.warning("unfinished_messages_dropped", peer=connection.peer, bytes=unfinished)
        if not waiting or now_s < connection.dropped_s + _AGAIN_S:
            self._calls.cut(connection, "bytes", reason)
        connection.dropped_s = now_s
        for call in waiting:
            call.evict(OverloadedError(reason, RETRY_DELAY_S), "bytes")
        self._calls.explain(connection, unfinished)

    def _cut_unread(self, now_s: float) -> None:
        """Cut the connection that holds most in answers that are not read."""
        unread: dict[Connection, int] = {}
        for call in self._calls.waiting_longer(_PRESSED_STALL_S, now_s):
            if call.writes:
                unread[call.connection] = unread.get(call.connection, 0) + call.held_bytes
        for connection in self._calls.connections.values():
            if connection.unread_bytes and now_s - connection.read_s > _PRESSED_STALL_S:
                unread[connection] = unread.get(connection, 0) + connection.unread_bytes
        if unread:
            worst = max(unread, key=lambda connection: unread[connection])
            self._calls.cut(
                worst, "bytes", f"{unread[worst]:,} bytes of answers not read; the server has no room"
            )
