"""Vital parts of a process: tasks that it cannot do without, and what is out of order now.

The unexpected end of a vital task is logged with its cause, counted, shown by health, and either repaired
at once or the end of the process. Composition roots make one `Faults` and one `Supervisor` a process.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from server.observability.vital_metrics import VitalMetrics

# A task that ends so soon after a repair would do so again, and again.
_SOON_S = 10.0
_MOST_SOON = 5  # in a row
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0  # before a repair after the first; it doubles


class Faults:
    """What is out of order now, by the part of the process; written and read on any thread.

    Args:
        on_change: called on the thread of the change, whenever it changes whether there is a fault.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def report(self, part: str, reason: str) -> None:
        """Note that a part is out of order, and why, in one line."""
        with self._lock:
            first = not self._reasons
            self._reasons[part] = reason
        if first:
            self._on_change()

    def clear(self, part: str) -> None:
        """Note that a part works again."""
        with self._lock:
            last = self._reasons.pop(part, None) is not None and not self._reasons
        if last:
            self._on_change()

    def healthy(self) -> str:
        """Return the reasons of all faults in one line; empty where there is none."""
        with self._lock:
            return "; ".join(self._reasons.values())


class Supervisor:
    """Repairs vital tasks that end, or ends the process with them.

    Args:
        on_failure: called with the reason why the process has to end; on the thread of the failure.
        clock: of how soon a task ended.
        sleep: waits before a repair that was not the first in a row.
    """

    def __init__(
        self,
        faults: Faults,
        metrics: VitalMetrics,
        log: FilteringBoundLogger,
        on_failure: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.faults = faults
        self._metrics = metrics
        self._log = log
        self._on_failure = on_failure
        self._clock = clock
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()

    def supervise(
        self,
        task: str,
        run: Callable[[], Coroutine[Any, Any, object]],
        *,
        repair: Callable[[], Awaitable[object]] | None = None,
    ) -> asyncio.Task[None]:
        """Run a vital task on the event loop until it is cancelled or `stop` is called.

        Args:
            task: its name, one of `vital_metrics.TASKS`.
            run: makes the coroutine, which is not expected to end; called anew after each repair.
            repair: makes good what its end broke; where there is none, or it raises, or the task ends again
                and again, the process has to end.

        Returns:
            The task to cancel where this part alone is to stop.
        """
        kept = asyncio.get_running_loop().create_task(self._keep(task, run, repair), name=task)
        self._tasks.add(kept)
        kept.add_done_callback(self._tasks.discard)
        return kept

    def failed(self, task: str, error: BaseException | None, *, remedy: str) -> None:
        """Log and count the unexpected end of a vital task; on any thread.

        Args:
            error: the cause; None where it ended without one.
            remedy: what follows, for the log.
        """
        self._metrics.failures.labels(task).inc()
        cause = "it returned" if error is None else type(error).__name__
        self._log.error("vital_task_ended", task=task, cause=cause, remedy=remedy, exc_info=error)

    def hangs(self, task: str, reason: str | None = None) -> None:
        """Count a vital task that does not go on; on any thread.

        Args:
            reason: of the fault that this is; None where it is repaired at once.
        """
        self._metrics.failures.labels(task).inc()
        if reason is not None:
            self.faults.report(task, reason)

    def end(self, task: str, reason: str) -> None:
        """Report a fault that is beyond repair, and have the process end; on any thread."""
        self.faults.report(task, reason)
        self._on_failure(reason)

    async def stop(self) -> None:
        """Cancel all tasks, and wait for their ends."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(
        self,
        task: str,
        run: Callable[[], Coroutine[Any, Any, object]],
        repair: Callable[[], Awaitable[object]] | None,
    ) -> None:
        soon = 0
        while True:
            started_s = self._clock()
            error = await _end_of(run)
            soon = soon + 1 if self._clock() < started_s + _SOON_S else 0
            again = repair is not None and soon <= _MOST_SOON
            self.failed(task, error, remedy="repair" if again else "the process ends")
            if repair is None or not again:
                often = f" {soon} times in a row" if repair is not None else ""
                self.end(task, f"vital task {task} ended unexpectedly{often}; the log has the cause")
                return
            self.faults.report(task, f"vital task {task} ended unexpectedly and is being repaired")
            if soon > 1:
                await self._sleep(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**soon))
            try:
                await repair()
            except Exception as error:  # noqa: BLE001 - whatever it is, the task cannot be had again
                self.failed(task, error, remedy="the process ends")
                self.end(task, f"vital task {task} could not be repaired; the log has the cause")
                return
            self.faults.clear(task)
            self._log.warning("vital_task_repaired", task=task)


async def _end_of(run: Callable[[], Coroutine[Any, Any, object]]) -> BaseException | None:
    """Wait for the end of a task; give its cause.

    Raises:
        CancelledError: the calling task itself was cancelled.
    """
    try:
        await run()
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        return error  # what it waited for was cancelled, and not by us
    except Exception as error:  # noqa: BLE001 - a vital task may end by any
        return error
    return None
