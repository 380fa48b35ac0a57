"""The threads of one device, which run its batches and open its sessions."""

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from server.batcher import Batcher
from server.batches import Batch

Result = TypeVar("Result")


class Lane:
    """Runs batches, the next one the moment a thread is free, and whatever else the device must do.

    Args:
        wake: the batcher's condition; waited on while there is nothing to do.
        batcher: gives the batches.
        threads: one for a CUDA device, whose graphs belong to a thread; on the CPU they share each
            model's session.

    Attributes:
        threads: batches that run at the same time.
    """

    def __init__(self, wake: threading.Condition, batcher: Batcher, threads: int) -> None:
        self._wake = wake
        self._batcher = batcher
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = False
        self.threads = threads
        self._threads = [
            threading.Thread(target=self._loop, args=(number,), name=f"lane-{number}", daemon=True)
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
            except Exception as error:  # noqa: BLE001 - it is for whoever waits for the future
                future.set_exception(error)

        with self._wake:
            if self._stopping:
                raise RuntimeError("the lane has stopped")
            self._calls.append(run)
            self._wake.notify()
        return future

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

    def _loop(self, number: int) -> None:
        """Start batches; finish each once as many are on their way as its network takes."""
        on_their_way: deque[tuple[int, Batch]] = deque()
        free_s = -math.inf  # when the last batch left the device
        # The batcher tells what is on its way by numbers, of which a thread needs two.
        numbers = itertools.cycle((number, number + self.threads))
        own = next(numbers)
        while (work := self._next(own, busy=bool(on_their_way))) is not None or on_their_way:
            most = 0  # before a call, or where there is nothing to do, all that is on its way comes first
            if isinstance(work, Batch):
                work.start()
                on_their_way.append((own, work))
                own = next(numbers)
                most = work.depth - 1
            while len(on_their_way) > most:
                ended, batch = on_their_way.popleft()
                free_s = batch.finish(free_s)
                with self._wake:
                    self._batcher.release(ended)
                del batch  # a thread that waits keeps no network in memory
            if work is not None and not isinstance(work, Batch):
                work()
            del work

    def _next(self, number: int, *, busy: bool) -> Batch | Callable[[], None] | None:
        """Wait for the next thing to do.

        Args:
            busy: whether something is on its way; then nobody waits here.

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
