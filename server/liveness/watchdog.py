"""A thread that looks for batches that do not end, and for an event loop that gives no sign of life.

What hangs is logged with the stack of its thread, counted and a fault; what goes on hanging ends the
process, so that an orchestrator starts another. Time in which this thread itself stood still, because the
container was paused say, does not count.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary, ref

from structlog.typing import FilteringBoundLogger

from server.liveness.supervision import Supervisor
from server.observability.vital_metrics import RunningBatch

_INTERVAL_S = 1.0  # of looking
# An interval longer than so many means that this thread stood still, not that others did.
_GAP_INTERVALS = 2
# A batch hangs after so many times its predicted time. Predictions follow what batches take within some
# batches, so this is for one that others, or a throttled container, slow down all of a sudden.
_PREDICTED_RATIO = 20.0
_BATCH_ENDS_RATIO = 2.0  # times the limit that a batch may take before the process ends
_LOOP_ENDS_RATIO = 6.0  # the same of the event loop: its limit is short, and nothing else can end it in order
_MOST_FAILURES = 5  # of looking, in a row
_STOP_SLACK_S = 10.0  # beyond the grace period, for the ends of processes and threads
_STACK_FRAMES = 12  # innermost ones


class Watchdog:
    """Watches the lanes and the event loop; made on that loop.

    Args:
        running: gives the batches under way, each with the ident of its thread.
        supervisor: takes note of what hangs, and ends the process in order.
        on_hopeless: ends the process at once, because an orderly end is not to be had; the reason.
        batch_timeout_s: that a batch may take, or 20 times what is predicted where that is longer.
        loop_timeout_s: that the event loop may give no sign of life.
        grace_s: that an orderly stop may take.
        interval_s: of looking.
        clock: of all times.
    """

    def __init__(
        self,
        running: Callable[[], Sequence[tuple[int, RunningBatch]]],
        supervisor: Supervisor,
        log: FilteringBoundLogger,
        on_hopeless: Callable[[str], None],
        *,
        batch_timeout_s: float,
        loop_timeout_s: float,
        grace_s: float,
        interval_s: float = _INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._running = running
        self._supervisor = supervisor
        self._log = log
        self._on_hopeless = on_hopeless
        self._batch_timeout_s = batch_timeout_s
        self._loop_timeout_s = loop_timeout_s
        self._grace_s = grace_s
        self._interval_s = interval_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._looked_s = clock()
        self._watched_s = 0.0  # time in which this thread was awake; all that follows is measured by it
        self._beat_s = 0.0  # when the event loop gave its last sign
        self._blocked = False
        # Weak: a batch that has ended keeps no network in memory until the next look.
        self._since_s: WeakKeyDictionary[RunningBatch, float] = WeakKeyDictionary()
        self._hanging: list[tuple[ref[RunningBatch], str, int]] = []  # with model and images, for the log
        self._required: dict[str, Callable[[], bool]] = {}
        self._ends_s: float | None = None  # when the process has to have ended
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def require(self, task: str, alive: Callable[[], bool]) -> None:
        """Look at a vital thread, too: its end is the end of the process, unless that is expected."""
        self._required[task] = alive

    def expect_end(self) -> None:
        """Return the process its grace period, and some slack, until it has ended."""
        if self._ends_s is None:
            self._ends_s = self._watched_s + self._grace_s + _STOP_SLACK_S

    def check(self) -> None:
        """Look once; the thread calls it."""
        now_s = self._clock()
        self._watched_s += min(now_s - self._looked_s, _GAP_INTERVALS * self._interval_s)
        self._looked_s = now_s
        self._check_loop()
        self._check_lanes()
        if self._ends_s is None:
            self._check_threads()
        if self._ends_s is not None and self._watched_s >= self._ends_s:
            self._on_hopeless("the server did not stop in order within its grace period")

    def _keep(self) -> None:
        failures = 0
        while not self._stopped.wait(self._interval_s):
            try:
                self.check()
                failures = 0
            except Exception as error:  # noqa: BLE001 - this is what looks after all others
                failures += 1
                self._supervisor.failed("watchdog", error, remedy="it goes on")
                if failures > _MOST_FAILURES:
                    self._supervisor.end(
                        "watchdog", "the watchdog fails again and again; the log has the cause"
                    )
                    return

    def _check_loop(self) -> None:
        quiet_s = self._watched_s - self._beat_s
        if quiet_s >= self._loop_timeout_s and not self._blocked:
            self._blocked = True
            reason = f"the event loop has given no sign of life for {quiet_s:.0f} s"
            self._log.error(
                "event_loop_blocked", blocked_s=round(quiet_s, 1), stack=_stack(self._loop_thread)
            )
            self._supervisor.hangs("event_loop", reason)
        elif quiet_s < self._loop_timeout_s and self._blocked:
            self._blocked = False
            self._supervisor.faults.clear("event_loop")
            self._log.warning("event_loop_resumed")
        if quiet_s >= _LOOP_ENDS_RATIO * self._loop_timeout_s:
            self._on_hopeless(f"the event loop has given no sign of life for {quiet_s:.0f} s")
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        self._beat_s = self._watched_s

    def _check_lanes(self) -> None:
        running = self._running()
        batches = {batch for _, batch in running}
        known = {hanging() for hanging, _, _ in self._hanging}
        for thread, batch in running:
            since_s = self._since_s.setdefault(batch, self._watched_s)
            took_s, limit_s = self._watched_s - since_s, self._limit_s(batch)
            model, images = batch.model, batch.images
            reason = f"a batch of {images} images for {model} has been running for {took_s:.0f} s"
            if took_s >= limit_s and batch not in known:
                self._hanging.append((ref(batch), model, images))
                self._log.error(
                    "lane_hangs",
                    model=model,
                    images=images,
                    running_s=round(took_s, 1),
                    limit_s=round(limit_s, 1),
                    stack=_stack(thread),
                )
                self._supervisor.hangs("lane", reason)
            if took_s >= _BATCH_ENDS_RATIO * limit_s and self._ends_s is None:
                self.expect_end()  # in order, if it can: other lanes go on
                self._supervisor.end("lane", f"{reason}, of at most {limit_s:.0f}")
        ended = [one for one in self._hanging if one[0]() not in batches]
        self._hanging = [one for one in self._hanging if one not in ended]
        for _, model, images in ended:
            self._log.warning("lane_resumed", model=model, images=images)
        if ended and not self._hanging:
            self._supervisor.faults.clear("lane")

    def _check_threads(self) -> None:
        for task, alive in list(self._required.items()):
            if not alive():
                del self._required[task]
                self._supervisor.failed(task, None, remedy="the process ends")
                self._supervisor.end(task, f"vital thread {task} ended unexpectedly")

    def _limit_s(self, batch: RunningBatch) -> float:
        predicted_s = batch.ends_s - batch.started_s  # not a number until it starts; then it has not hung yet
        return max(self._batch_timeout_s, _PREDICTED_RATIO * predicted_s)


def _stack(thread: int) -> list[str]:
    """Return where a thread is, innermost last, without any values."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way, for debuggers such as this
    frames = traceback.extract_stack(frame)[-_STACK_FRAMES:] if frame else []
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
