"""Images of one model that run together: bound by the batcher, run by a lane, settled on the event loop."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from server.batching.contention import Contention
from server.batching.queues import ModelQueue, Slice
from server.batching.submissions import BatchTimes
from server.errors import InferenceError
from server.inference import Priority, Probabilities
from server.threads import hand_over

_STEADY = 0.1  # as far as the slowdown of a batch may have changed while it ran, to be taken for constant


@dataclass(eq=False)
class Batch:
    """A batch; a lane calls `start`, and later `finish`, in the order in which batches were started.

    Attributes:
        priority: of the images that it was bound for.
        ends_s: when it should end, as predicted, on the clock.
        images: how many it carries.
        started_s: when it started, on the clock; not a number before.
    """

    queue: ModelQueue
    priority: Priority
    slices: list[Slice]
    ends_s: float
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    contention: Contention
    log_failure: Callable[[str, Exception], None]
    images: int = field(init=False)
    started_s: float = field(init=False, default=math.nan)
    _begun_work_s: float = field(init=False)
    _slowdown_then: float = field(init=False)
    _slowdown: float = field(init=False, default=1.0)
    _on_its_way: object = field(init=False, default=None)
    _outcome: Probabilities | Exception | None = field(init=False, default=None)
    _not_numbers: list[int] = field(init=False, default_factory=list)  # rows

    def __post_init__(self) -> None:
        self.images = sum(part.stop - part.start for part in self.slices)

    @property
    def model(self) -> str:
        """The name of its model."""
        return self.queue.name

    @property
    def depth(self) -> int:
        """How many batches of this network may be in progress, from the lane's thread."""
        return self.queue.pipelined.depth if self.queue.pipelined else 1

    def start(self) -> None:
        """Infer on the calling thread; or only set the batch on its way, where the network can."""
        self.started_s = self.clock()
        self._begun_work_s = self.contention.work_s(self.started_s)
        self._slowdown_then = self.contention.slowdown
        try:
            parts = [part.submission.images[part.start : part.stop] for part in self.slices]
            # What came in one array is not taken apart where it is the whole batch.
            rows = parts[0] if len(parts) == 1 else [row for part in parts for row in part]
            if self.queue.pipelined:
                self._on_its_way = self.queue.pipelined.start(rows)
            else:
                self._outcome = self.queue.network.infer(rows)
        except Exception as error:  # noqa: BLE001 - whatever the device raises, the lane goes on
            self._outcome = error

    def finish(self, free_s: float = -math.inf, *, on_loop: bool = False) -> float:
        """Settle on the event loop, with one wake-up for all.

        Of its time, the profile learns what it would have taken alone: the work is the integral of dt /
        slowdown, as `Contention` counts it, and the slowdown that this batch had is its time divided by that.

        Args:
            free_s: when the batch before this one ended, and left the device to it.
            on_loop: whether the event loop calls this; then it settles at once.

        Returns:
            When this one ended.
        """
        try:
            outcome = self._checked(self._finished() if self._outcome is None else self._outcome)
        except Exception as error:  # noqa: BLE001 - a network may answer with anything, or with nothing
            outcome = error
        ended_s = self.clock()
        work_s = self.contention.work_s(ended_s) - self._begun_work_s
        self._slowdown = (ended_s - self.started_s) / work_s if work_s > 0 else 1.0
        times = BatchTimes(max(self.started_s, free_s), ended_s, self.images)
        if on_loop:
            self._settle(outcome, times)
        else:
            hand_over(self.loop, self._settle, outcome, times)
        return ended_s

    def fail(self, error: BaseException) -> None:
        """Settle on the event loop where the lane cannot finish it."""
        cause = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
        ended_s = self.clock()
        started_s = ended_s if math.isnan(self.started_s) else self.started_s
        hand_over(self.loop, self._settle, cause, BatchTimes(started_s, ended_s, self.images))

    def _finished(self) -> Probabilities | Exception:
        try:
            if not self.queue.pipelined:
                raise RuntimeError("a batch that was not started cannot be finished. This is a bug.")
            return self.queue.pipelined.finish(self._on_its_way)
        except Exception as error:  # noqa: BLE001 - as in `start`
            return error

    def _checked(self, outcome: Probabilities | Exception) -> Probabilities | Exception:
        wanted = (self.images, self.queue.label_count)
        if isinstance(outcome, Exception):
            return outcome
        if outcome.shape != wanted:
            return ValueError(f"the network gave probabilities of shape {outcome.shape}, not {wanted}")
        if not np.isfinite(outcome.sum()):  # one look where all is well
            self._not_numbers = np.flatnonzero(~np.isfinite(outcome).all(axis=1)).tolist()
        return outcome

    def _settle(self, outcome: Probabilities | Exception, times: BatchTimes) -> None:
        try:
            self._answer(outcome, times)
        except Exception as error:  # noqa: BLE001 - every submission is settled, whatever happens
            for part in self.slices:
                part.submission.fail(InferenceError("the answers of this batch could not be used"), "failed")
            self.log_failure(self.queue.name, error)
        for part in self.slices:
            part.submission.batch_ended()

    def _answer(self, outcome: Probabilities | Exception, times: BatchTimes) -> None:
        metrics = self.queue.metrics
        metrics.batch_size.observe(times.batch_size)
        metrics.infer.observe(times.ended_s - times.started_s)
        if isinstance(outcome, Exception):
            for part in self.slices:
                part.submission.fail(InferenceError("the device failed this batch"), "failed")
            self.log_failure(self.queue.name, outcome)
            return
        now_s = self.clock()
        took_s = times.ended_s - times.started_s
        metrics.statistics.ran(times.batch_size, took_s)
        # A batch that was alone for a part of its time only says nothing certain of either case.
        if abs(self._slowdown - self._slowdown_then) <= _STEADY * self._slowdown_then:
            self.queue.profile.observe(times.batch_size, took_s / self._slowdown, now_s)
        row = 0
        for part in self.slices:
            count = part.stop - part.start
            bad = self._not_numbers and [at for at in self._not_numbers if row <= at < row + count]
            if bad:
                image = part.start + bad[0] - row
                reason = f"images[{image}]: the network's answer is not a number"
                part.submission.fail(InferenceError(reason), "failed")
            else:
                answer = part.submission.collect(part.start, outcome[row : row + count], times, now_s)
                if answer is not None:
                    metrics.queue.observe(answer.queue_s)
            row += count
        if self._not_numbers:
            error = ValueError(f"{len(self._not_numbers)} of {row} answers are not numbers")
            self.log_failure(self.queue.name, error)
