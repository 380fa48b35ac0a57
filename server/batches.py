"""Images of one model that run together: bound by the batcher, run by a lane, settled on the event loop."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from server.errors import InferenceError
from server.handover import hand_over
from server.network import Probabilities
from server.queues import ModelQueue, Seats
from server.submissions import BatchTimes, Priority


@dataclass(eq=False)
class Batch:
    """A batch; a lane calls `run`, or `start` and later `finish`.

    Attributes:
        priority: of the images that it was bound for.
        ends_s: when it should end, as predicted, on the clock.
        images: how many it carries.
    """

    queue: ModelQueue
    priority: Priority
    seats: list[Seats]
    ends_s: float
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    log_failure: Callable[[str, Exception], None]
    images: int = field(init=False)
    _started_s: float = field(init=False)
    _outcome: Probabilities | Exception = field(init=False)
    _not_numbers: list[int] = field(init=False, default_factory=list)  # rows

    def __post_init__(self) -> None:
        self.images = sum(seats.stop - seats.start for seats in self.seats)

    def run(self) -> None:
        """Infer on the calling thread, then settle on the event loop, with one wake-up for all."""
        self.start()
        self.finish()

    def start(self) -> None:
        """Infer on the calling thread."""
        self._started_s = self.clock()
        rows = [row for seats in self.seats for row in seats.submission.images[seats.start : seats.stop]]
        wanted = (self.images, self.queue.label_count)
        try:
            self._outcome = outcome = self.queue.network.infer(rows)
            if outcome.shape != wanted:
                raise ValueError(f"the network gave probabilities of shape {outcome.shape}, not {wanted}")
            self._not_numbers = np.flatnonzero(~np.isfinite(outcome).all(axis=1)).tolist()
        except Exception as error:  # noqa: BLE001 - whatever the device raises, the lane goes on
            self._outcome = error

    def finish(self) -> None:
        """Settle on the event loop, with one wake-up for all."""
        times = BatchTimes(self._started_s, self.clock(), self.images)
        hand_over(self.loop, self._settle, times)

    def _settle(self, times: BatchTimes) -> None:
        metrics = self.queue.metrics
        metrics.batch_size.observe(times.batch_size)
        metrics.infer.observe(times.ended_s - times.started_s)
        if isinstance(self._outcome, Exception):
            for seats in self.seats:
                seats.submission.fail(InferenceError("the device failed this batch"), "failed")
            self.log_failure(self.queue.name, self._outcome)
            return
        now_s = self.clock()
        self.queue.costs.observe(times.batch_size, times.ended_s - times.started_s, now_s)
        row = 0
        for seats in self.seats:
            count = seats.stop - seats.start
            bad = [seats.start + at - row for at in self._not_numbers if row <= at < row + count]
            if bad:
                reason = f"images[{bad[0]}]: the network's answer is not a number"
                seats.submission.fail(InferenceError(reason), "failed")
            else:
                seats.submission.collect(seats.start, self._outcome[row : row + count], times, now_s)
            row += count
        if self._not_numbers:
            error = ValueError(f"{len(self._not_numbers)} of {row} answers are not numbers")
            self.log_failure(self.queue.name, error)
