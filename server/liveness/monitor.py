"""What keeps watch in a process, the engine's or a front end's: faults, supervisor and watchdog, wired."""

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from server.config import Settings
from server.liveness.heartbeat import BEATS
from server.liveness.supervision import Faults, Supervisor
from server.liveness.watchdog import Watchdog
from server.observability import logs
from server.observability.vital_metrics import RunningBatch, VitalMetrics
from server.threads import hand_over

Running = Callable[[], Sequence[tuple[int, RunningBatch]]]


class Monitor:
    """Watches the vital parts of a process; made on its event loop, which calls the functions.

    Args:
        registry: of the process's metrics.
        on_fault: called with what is out of order now, in one line; empty where nothing is any more.
        on_failure: called with the reason why the process has to end, in order.
        on_hopeless: called on a thread with the reason why the process has to end at once.
        loop_timeout_s: that the event loop may give no sign of life; the setting, where none is given.

    Attributes:
        faults: what is out of order now; `Faults.healthy` is for any thread.
        supervisor: of vital tasks.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        log: FilteringBoundLogger,
        *,
        on_fault: Callable[[str], None],
        on_failure: Callable[[str], None],
        on_hopeless: Callable[[str], None],
        loop_timeout_s: float | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.faults = Faults(lambda: hand_over(loop, lambda: on_fault(self.faults.healthy())))
        self._running: Running = tuple
        metrics = VitalMetrics(registry)
        metrics.watch(self.faults.__len__, self._batches)
        logs.watch_drops(log, registry)
        self.supervisor = Supervisor(
            self.faults, metrics, log, lambda reason: hand_over(loop, on_failure, reason)
        )
        self._watchdog = Watchdog(
            self._batches,
            self.supervisor,
            log,
            on_hopeless,
            batch_timeout_s=settings.batch_timeout_s,
            loop_timeout_s=loop_timeout_s or settings.heartbeat_timeout_s,
            grace_s=settings.grace_s,
            interval_s=settings.heartbeat_timeout_s / BEATS,
        )
        self._watchdog.start()

    def watch_lane(self, running: Running) -> None:
        """Have batches watched.

        Args:
            running: gives those under way, each with the ident of its thread.
        """
        self._running = running

    def require(self, task: str, alive: Callable[[], bool]) -> None:
        """Have a vital thread watched: its end is the end of the process, until `expect_end`.

        Args:
            task: its name, one of `vital_metrics.TASKS`.
        """
        self._watchdog.require(task, alive)

    def lane_failed(self, error: BaseException, goes_on: bool) -> None:
        """Take note of a lane's failure; on its thread."""
        self.supervisor.failed("lane", error, remedy="it goes on" if goes_on else "the process ends")
        if not goes_on:
            self.supervisor.end("lane", "a lane failed again and again; the log has the cause")

    def metrics_port_failed(self) -> None:
        """Take note of a failure of the metrics port, which has logged it; on its thread."""
        self.supervisor.hangs("metrics_port")

    async def expect_end(self) -> None:
        """Take ends for what they should be from now on, and give the process its grace period."""
        self._watchdog.expect_end()
        await self.supervisor.stop()

    def close(self) -> None:
        """End the watch."""
        self._watchdog.stop()

    def _batches(self) -> Sequence[tuple[int, RunningBatch]]:
        return self._running()
