"""One of the front ends that a server wants: a process, and another one when that has ended."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from structlog.typing import FilteringBoundLogger

from server.config import Settings
from server.errors import StartError
from server.frontends import arena
from server.frontends.connection import Connection
from server.frontends.metrics import FrontendMetrics
from server.frontends.reports import Counters
from server.frontends.spawn import Child
from server.liveness.supervision import Supervisor
from server.observability import logs

_START_S = 60.0  # that a process has until it listens
# A front end that ends so soon would do so again, and again.
_SOON_S = 10.0
_MOST_SOON = 5  # in a row
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0  # before the next; it doubles


class FrontendSupervisor:
    """Keeps a front end alive, until it is stopped.

    Args:
        number: of the front end, from 1.
        connect: makes the engine's end of a connection, given the number and the shared memory.
        welcome: sends a front end that has connected all that it needs.
        on_failure: called with the reason why no other is started.

    Attributes:
        connection: to the process that lives; None where there is none.
        pid: of that process; None where there is none.
        listens: settled when the first one listens, or has failed.
        past: what those counted that have ended.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        connect: Callable[[int, int], Connection],
        welcome: Callable[[Connection], None],
        metrics: FrontendMetrics,
        log: FilteringBoundLogger,
        supervisor: Supervisor,
        on_failure: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._number = number
        self._settings = settings
        self._connect = connect
        self._welcome = welcome
        self._metrics = metrics
        self._log = log.bind(frontend=number)
        self._on_failure = on_failure
        loop = asyncio.get_running_loop()
        self._stopping = False
        self.connection: Connection | None = None
        self.pid: int | None = None
        self.listens: asyncio.Future[None] = loop.create_future()
        self.past = Counters()
        self.task = loop.create_task(self._keep())
        self.task.add_done_callback(self._require_an_end)

    @property
    def listening(self) -> Connection | None:
        """The connection to the process, where that listens."""
        return self.connection if self.connection is not None and self.connection.listening.done() else None

    def stop(self, ends_s: float) -> None:
        """Have the process answer what it accepted and end by then; there will be no other."""
        self._stopping = True
        if self.listening is not None:
            self.listening.pending.stop_by_s = ends_s
        else:
            self.task.cancel()

    def force_stop(self) -> None:
        """End the grace period of a stop now."""
        if self.connection is not None:
            self.connection.pending.hurry = True

    def _require_an_end(self, task: asyncio.Task[None]) -> None:
        """End the server rather than serve on with a front end that is not supervised."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._supervisor.failed("supervisor", error, remedy="the process ends")
        if self.listens.done():
            self._on_failure(f"front end {self._number} could not be kept; the log has the cause")
        else:
            self.listens.set_exception(StartError(f"front end {self._number} could not be started"))

    async def _keep(self) -> None:
        soon = 0
        while True:
            started_s = time.monotonic()
            try:
                why = await self._live()
            except OSError as error:  # no memory, or no process
                why = str(error)
                self._log.error("frontend_not_started", cause=why)
            if self._stopping:
                return
            if not self.listens.done():
                self.listens.set_exception(StartError(f"front end {self._number} did not start: {why}"))
                return
            soon = soon + 1 if time.monotonic() < started_s + _SOON_S else 0
            if self._settings.frontend_exit == "stop":
                self._on_failure(f"front end {self._number} ended ({why}), and frontend_exit is stop")
                return
            if soon > _MOST_SOON:
                self._on_failure(f"front end {self._number} ended {soon} times in a row, at last with {why}")
                return
            await asyncio.sleep(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**soon))
            self._metrics.restarts.inc()

    def _end_silent(self, connection: Connection, child: Child, silent_s: float) -> None:
        """End a process that listens and gives no sign of life; another takes its place."""
        if not connection.listening.done():
            return  # it has longer for its start
        self._supervisor.hangs("frontend")
        self._log.error("frontend_hangs", pid=child.pid, silent_s=round(silent_s, 1), remedy="it is replaced")
        child.kill()

    async def _live(self) -> str:
        """Run one process until it has ended; return why it has."""
        with ExitStack() as stack:
            memory = arena.create(self._settings.frontend_memory_bytes)
            stack.callback(os.close, memory)  # both sides have mapped it, or will
            ours, theirs = socket.socketpair()
            connection = self._connect(self._number, memory)
            try:
                child = Child(theirs, memory, logs.descriptor(self._log))
            except OSError:
                ours.close()
                raise
        self.connection, self.pid = connection, child.pid
        log = self._log.bind(pid=child.pid)
        ended = asyncio.get_running_loop().create_task(connection.ended())
        try:
            await connection.connect(ours)
            self._welcome(connection)
            connection.watch(self._settings.heartbeat_timeout_s, partial(self._end_silent, connection, child))
            waiting: list[asyncio.Future[Any]] = [ended, connection.listening]
            done, _ = await asyncio.wait(waiting, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                log.error("frontend_hangs", start_s=_START_S)
                child.kill()
            elif not ended.done() and connection.listening.exception() is None:
                log.info("frontend_listening")
                self._metrics.alive.inc()
                ended.add_done_callback(lambda _: self._metrics.alive.dec())
                if not self.listens.done():
                    self.listens.set_result(None)
            unanswered = await asyncio.shield(ended)
        except BaseException:
            child.kill()
            connection.close()
            await asyncio.to_thread(child.wait)
            raise
        finally:
            self.past.add(connection.counters)
            self.connection = self.pid = None
        why = await asyncio.to_thread(child.wait)
        if (error := connection.listening.exception()) is not None:
            why = str(error)
        if self._stopping:
            log.info("frontend_stopped", cause=why)
        else:
            log.error("frontend_ended", cause=why, unanswered=unanswered)
        return why
