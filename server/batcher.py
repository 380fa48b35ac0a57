"""The choice of a device's next batch, among the queues of its models.

Handlers submit images on the event loop; lanes take batches on their threads. A batch is bound as late
as can be: only when a lane is free, so it grows while the device is busy, and there is no timer.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from artifact.pictures import Pixels
from server import deadlines
from server.errors import ExpiredError, InferenceError, ModelNotReadyError, OverloadedError
from server.handover import hand_over
from server.metrics import Unanswered
from server.network import Probabilities
from server.queues import Answer, BatchTimes, ModelQueue, Seats, Submission

_RETRY_DELAY_S = 0.1  # a few batches of a large network on a CPU


@dataclass(frozen=True)
class Batch:
    """Images of one model that run together; a lane calls `run`."""

    queue: ModelQueue
    seats: list[Seats]
    loop: asyncio.AbstractEventLoop
    log_failure: Callable[[str, Exception], None]
    rows: list[Pixels] = field(init=False)

    def __post_init__(self) -> None:
        rows = [row for seats in self.seats for row in seats.submission.images[seats.start : seats.stop]]
        object.__setattr__(self, "rows", rows)

    def run(self) -> None:
        """Infer on the calling thread, then settle on the event loop, with one wake-up for all."""
        started_s = time.monotonic()
        outcome: Probabilities | Exception
        try:
            outcome = self.queue.network.infer(self.rows)
            wanted = (len(self.rows), self.queue.label_count)
            if outcome.shape != wanted:
                raise ValueError(f"the network gave probabilities of shape {outcome.shape}, not {wanted}")
        except Exception as error:  # noqa: BLE001 - whatever the device raises, the lane goes on
            outcome = error
        times = BatchTimes(started_s, time.monotonic(), len(self.rows))
        hand_over(self.loop, self._settle, outcome, times)

    def _settle(self, outcome: Probabilities | Exception, times: BatchTimes) -> None:
        metrics = self.queue.metrics
        metrics.batch_size.observe(times.batch_size)
        metrics.infer.observe(times.ended_s - times.started_s)
        if isinstance(outcome, Exception):
            for seats in self.seats:
                seats.submission.fail(InferenceError("the device failed this batch"))
            metrics.unanswered["failed"].inc(times.batch_size)
            self.log_failure(self.queue.name, outcome)
            return
        row = 0
        for seats in self.seats:
            count = seats.stop - seats.start
            if seats.submission.collect(seats.start, outcome[row : row + count], times):
                metrics.queue.observe(times.started_s - seats.submission.submitted_s)
            row += count


class Batcher:
    """The queues of one device.

    Args:
        wake: notified when there is something to take; its lock guards the queues. Shared with the
            device's lane, which waits on it.
        log_failure: told of a batch that the device failed: the model's name and the cause.
    """

    def __init__(self, wake: threading.Condition, log_failure: Callable[[str, Exception], None]) -> None:
        self._wake = wake
        self._log_failure = log_failure
        self._queues: list[ModelQueue] = []
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def add(self, queue: ModelQueue) -> None:
        """Serve a model from now on."""
        with self._wake:
            self._queues.append(queue)

    async def submit(
        self, queue: ModelQueue, images: Sequence[Pixels], deadline_s: float | None = None
    ) -> Answer:
        """Queue images and wait for their answers.

        Being cancelled takes out those that still wait.

        Args:
            images: uint8 ``[H, W, C]`` each, of the model's shape; at least one.
            deadline_s: on the clock of `time.monotonic`; None for no deadline.

        Raises:
            OverloadedError: the queue has no room for all of them.
            ExpiredError: the deadline passed before an image's batch began.
            InferenceError: the device failed a batch that carried one of them.
            ModelNotReadyError: the server is stopping.
        """
        submission = Submission(
            images=images,
            probabilities=np.empty((len(images), queue.label_count), np.float32),
            future=self._loop.create_future(),
            deadline_s=deadline_s,
            submitted_s=time.monotonic(),
        )
        with self._wake:
            if self._closed:
                raise ModelNotReadyError("the server is stopping")
            if queue.waiting + len(images) > queue.max_queue_size:
                queue.metrics.unanswered["queue_full"].inc(len(images))
                raise OverloadedError(
                    f"{queue.waiting} images wait for {queue.name}, of {queue.max_queue_size} that may; "
                    f"{len(images)} more do not fit",
                    _RETRY_DELAY_S,
                )
            queue.append(submission)
            self._wake.notify(-(-len(images) // queue.max_batch_size))  # a lane for each batch
        try:
            return await submission.future
        except asyncio.CancelledError:
            self._withdraw(queue, submission, "expired" if deadlines.over(deadline_s) else "cancelled")
            raise
        except InferenceError:
            self._withdraw(queue, submission, "failed")
            raise

    def _withdraw(self, queue: ModelQueue, submission: Submission, reason: Unanswered) -> None:
        """Take out the images that still wait, because nobody waits for them any more."""
        with self._wake:
            left = queue.remove(submission)
        queue.metrics.unanswered[reason].inc(left)

    def take(self) -> Batch | None:
        """Bind the next batch: of the model whose oldest image has waited longest, as many as fit.

        Called by a lane, which holds the lock. Images whose deadline has passed are dropped here,
        before any computing.
        """
        now_s = time.monotonic()
        for queue in self._queues:
            for late in queue.expired(now_s):
                error = ExpiredError("the deadline passed in the queue")
                hand_over(self._loop, late.fail, error)
        waiting = [queue for queue in self._queues if queue.oldest_s is not None]
        if not waiting:
            return None
        queue = min(waiting, key=lambda queue: queue.oldest_s or 0.0)
        return Batch(queue, queue.take(), self._loop, self._log_failure)

    def close(self) -> None:
        """Take no more, and fail whoever still waits; what runs is still answered."""
        with self._wake:
            self._closed = True
            left = [submission for queue in self._queues for submission in queue.clear()]
        for submission in left:
            submission.fail(ModelNotReadyError("the server is stopping"))
