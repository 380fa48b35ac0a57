"""The threads of one device, which run its batches and open its sessions.

A thread that fails for a reason of its own fails what it had under way, and goes on; `Watchdog` looks for
batches that do not end.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from server.batching.batcher import Batcher
from server.batching.batches import Batch

Result = TypeVar("Result")

# A thread that fails so often in a row, each time so soon, would do so again and again.
_SOON_S = 10.0
_MOST_SOON = 5

# What handing over takes is measured so often, so many times in a row.
_SERIES, _TRIPS = 5, 8


class Lane:
    """Runs batches, the next one the moment a thread is free, and whatever else the device must do.

    Args:
        wake: the batcher's condition; waited on while there is nothing to do.
        batcher: gives the batches.
        threads: one for a CUDA device, as its graphs belong to a thread; on the CPU they share each
            model's session.
        on_failure: called on a thread that failed, with the cause and whether it goes on.

    Attributes:
        threads: batches that run at the same time.
    """

    def __init__(
        self,
        wake: threading.Condition,
        batcher: Batcher,
        threads: int,
        on_failure: Callable[[BaseException, bool], None] = lambda _error, _goes_on: None,
    ) -> None:
        self._on_failure = on_failure
        self._wake = wake
        self._batcher = batcher
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = False
        self.threads = threads
        # By the number of a thread: what is on its way there, in the order in which it was started. The
        # thread itself replaces the tuple; any may read it.
        self._under_way: list[tuple[Batch, ...]] = [()] * threads
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name=f"lane-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function between two batches.

        Raises:
            RuntimeError: the lane has stopped.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - the future has it
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
                raise

        with self._wake:
            if self._stopping:
                raise RuntimeError("the lane has stopped")
            self._calls.append(run)
            self._wake.notify()
        return future

    async def hand_over_s(self) -> float:
        """Measure the processor time of handing something over to a thread and back to the event loop.

        Returns:
            The least of some means, as whatever else the process does meanwhile counts, too.

        Raises:
            RuntimeError: the lane has stopped.
        """
        least_s = math.inf
        for _ in range(_SERIES):
            began_s = time.process_time()
            for _ in range(_TRIPS):
                await asyncio.wrap_future(self.call(lambda: None))
            least_s = min(least_s, (time.process_time() - began_s) / _TRIPS)
        return least_s

    def stop(self, timeout_s: float) -> bool:
        """Finish what is queued, then end the threads.

        Returns:
            False where a thread was still busy after ``timeout_s``.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        ends_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def running(self) -> list[tuple[int, Batch]]:
        """Return the batches that are under way, each with the ident of its thread; on any thread."""
        return [
            (thread.ident or 0, batch)
            for thread, under_way in zip(self._threads, self._under_way, strict=True)
            for batch in under_way
        ]

    def _keep(self, number: int) -> None:
        """Run batches until the lane stops; begin again where that fails."""
        soon, goes_on = 0, True
        while goes_on:
            began_s = time.monotonic()
            try:
                self._loop(number)
                goes_on = False
            except BaseException as error:  # noqa: BLE001 - no failure of one batch may end the lane
                soon = soon + 1 if time.monotonic() < began_s + _SOON_S else 0
                goes_on = soon <= _MOST_SOON
                for batch in self._under_way[number]:
                    batch.fail(error)
                    with self._wake:
                        self._batcher.release(number)
                self._under_way[number] = ()
                self._on_failure(error, goes_on)

    def _loop(self, number: int) -> None:
        """Start batches; finish each once as many are on their way as its network takes."""
        free_s = -math.inf  # when the last batch left the device
        under_way = self._under_way
        while (work := self._next(number, busy=bool(under_way[number]))) is not None or under_way[number]:
            most = 0  # before a call, or where there is nothing to do, all that is on its way comes first
            if isinstance(work, Batch):
                under_way[number] += (work,)
                work.start()
                most = work.depth - 1
            while len(under_way[number]) > most:
                batch = under_way[number][0]
                free_s = batch.finish(free_s)
                under_way[number] = under_way[number][1:]
                with self._wake:
                    self._batcher.release(number)
                del batch  # a thread that waits keeps no network in memory
            if work is not None and not isinstance(work, Batch):
                work()
            del work

    def _next(self, number: int, *, busy: bool) -> Batch | Callable[[], None] | None:
        """Wait for the next thing to do.

        Args:
            busy: whether something is on its way; then this does not wait.

        Returns:
            None when the lane stops, and where there is nothing to do now but what is on its way.
        """
        with self._wake:
            while True:
                if self._calls:
                    return self._calls.popleft()
                batch = self._batcher.take(number)
                if isinstance(batch, Batch):
                    return batch
                if busy or (batch is None and self._stopping):
                    return None
                self._wake.wait(batch)
