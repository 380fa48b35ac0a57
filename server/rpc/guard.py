"""What keeps calls in bounds while they wait: no peer holds memory, calls or connections for long."""

import asyncio
import time

from structlog.typing import FilteringBoundLogger

from server import machine
from server.errors import IdleCallError, OverloadedError
from server.in_flight import RETRY_DELAY_S
from server.rpc.calls import Calls
from server.rpc.connections import Connection, Socket, Sockets

_TICK_S = 0.1  # at 1 GB/s, a fifth of `max_bytes_in_flight` comes in that time
_SCAN_TICKS = 10  # connections without calls are looked for so often
_GIVE_BACK_TICKS = 50
_KEPT_BYTES = 64 << 20  # of freed memory; to give back less is not worth the time
_WORTHWHILE_RATIO = 1 / 64  # of the room in all: what holds less is not worth ending calls for
_PRESSED_STALL_S = 2.0  # without room, an answer that is not read for so long ends its connection
_CROWDED_RATIO = 0.75  # of the connections that may be: from here on, idle ones are closed


class Guard:
    """Watches over open calls; lives on the event loop.

    Args:
        calls: of this process.
    """

    def __init__(self, calls: Calls, log: FilteringBoundLogger) -> None:
        self._calls = calls
        self._log = log
        self._idle_since_s: dict[Socket, float] = {}
        self._kept_bytes = machine.resident_memory_bytes()  # when memory was last given back

    async def watch(self, port: int) -> None:
        """Evict what has waited too long or holds too much, until cancelled.

        Args:
            port: that the connections come to.
        """
        sockets = Sockets(port)
        tick = 0
        while True:
            await asyncio.sleep(_TICK_S)
            tick += 1
            try:
                await self._look(sockets, all_=tick % _SCAN_TICKS == 0)
                if tick % _GIVE_BACK_TICKS == 0:
                    await self._give_back()
            except Exception:  # noqa: BLE001 - the bounds hold only as long as this goes on
                self._log.exception("guard_failed")

    async def _look(self, sockets: Sockets, *, all_: bool) -> None:
        now_s = time.monotonic()
        self._evict_idle(now_s)
        if all_ or any(
            one.all_calls and one.address and one.socket is None for one in self._calls.connections.values()
        ):
            await self._scan(sockets, now_s)
        await self._measure(now_s)

    async def _give_back(self) -> None:
        """Give the memory of large requests back once they have ended: the C library would keep it."""
        if machine.resident_memory_bytes() > self._kept_bytes + _KEPT_BYTES:
            await asyncio.to_thread(machine.give_back_freed_memory)
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
        found = await asyncio.to_thread(sockets.find)
        idle = set(found.values())
        for peer, connection in list(self._calls.connections.items()):
            socket = None if connection.address is None else found.get(connection.address)
            connection.cut &= socket == connection.socket  # the port of a peer may come again
            connection.socket = socket
            if connection.all_calls and connection.socket is not None:
                idle.discard(connection.socket)
            elif not connection.all_calls and connection.socket is None:
                del self._calls.connections[peer]
        # The age of a connection without calls is known from the first scan that saw it so.
        self._idle_since_s = {one: self._idle_since_s.get(one, now_s) for one in idle}
        crowd = len(found) - int(self._calls.limits.max_connections * _CROWDED_RATIO)
        if crowd > 0:
            self._thin_out(crowd)

    def _thin_out(self, crowd: int) -> None:
        """Close connections that do nothing: first those without calls, then those with calls that wait."""
        idle = sorted(self._idle_since_s, key=self._idle_since_s.__getitem__)
        waiting: dict[Connection, int] = {}
        for call in self._calls.waiting:
            waiting[call.connection] = waiting.get(call.connection, 0) + 1
        idle += [one.socket for one, calls in waiting.items() if one.socket and calls == one.all_calls]
        self._log.warning("idle_connections_closed", connections=min(crowd, len(idle)))
        for one in idle[:crowd]:
            self._calls.count("connections")
            one.shut_down()

    async def _measure(self, now_s: float) -> None:
        """Measure what is unfinished, and end the calls that hold too much of it."""
        connections = [
            one for one in self._calls.connections.values() if one.all_calls and one.socket is not None
        ]
        if not connections:
            self._calls.in_flight.unfinished_bytes = 0
            return
        received = await asyncio.to_thread(
            lambda: [None if one.socket is None else one.socket.received_bytes() for one in connections]
        )
        for connection, received_bytes in zip(connections, received, strict=True):
            connection.explain(received_bytes)
        self._calls.in_flight.unfinished_bytes = sum(one.unfinished_bytes for one in connections)
        limit = self._calls.limits.max_bytes_per_connection
        worthwhile = self._calls.in_flight.max_bytes * _WORTHWHILE_RATIO
        for connection in sorted(connections, key=lambda one: one.unfinished_bytes, reverse=True):
            too_much = connection.unfinished_bytes + connection.held_bytes > limit
            if connection.unfinished_bytes > worthwhile and (too_much or self._has_no_room):
                self._evict_unfinished(connection)
                self._calls.pressed = False
        if self._has_no_room:
            self._cut_unread(now_s)
            self._calls.pressed = False

    @property
    def _has_no_room(self) -> bool:
        return self._calls.pressed or self._calls.in_flight.excess_bytes > 0

    def _evict_unfinished(self, connection: Connection) -> None:
        """End all calls of a connection that wait for messages; where none does, end the connection."""
        waiting = [call for call in self._calls.waiting if call.connection is connection and not call.writes]
        unfinished = connection.unfinished_bytes
        reason = f"{unfinished:,} bytes of unfinished messages on this connection; the server has no room"
        self._log.warning("unfinished_messages_dropped", peer=connection.peer, bytes=unfinished)
        if not waiting:
            self._calls.cut(connection, "bytes", reason)
        for call in waiting:
            call.evict(OverloadedError(reason, RETRY_DELAY_S), "bytes")
        self._calls.explain(connection, unfinished)

    def _cut_unread(self, now_s: float) -> None:
        """Cut the connection that holds most in answers that are not read."""
        unread: dict[Connection, int] = {}
        for call in self._calls.waiting_longer(_PRESSED_STALL_S, now_s):
            if call.writes:
                unread[call.connection] = unread.get(call.connection, 0) + call.held_bytes
        if unread:
            worst = max(unread, key=lambda connection: unread[connection])
            self._calls.cut(
                worst, "bytes", f"{unread[worst]:,} bytes of answers not read; the server has no room"
            )
