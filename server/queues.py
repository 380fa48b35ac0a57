"""The images that wait for one model.

The batcher puts submissions in and takes the images of a batch out, under its lock; the event loop
collects their answers as batches end.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from artifact.pictures import Pixels
from server.metrics import BatcherMetrics
from server.network import Network, Probabilities


@dataclass(frozen=True)
class Answer:
    """What became of a submission.

    Attributes:
        probabilities: float32 ``[N, K]``, in the order of the images.
        queue_s: longest wait of an image.
        infer_s: longest run of a batch that carried one of the images.
        batch_size: images in the largest such batch.
    """

    probabilities: Probabilities
    queue_s: float
    infer_s: float
    batch_size: int


@dataclass(eq=False)
class Submission:
    """Images that came together, and their answers as they arrive.

    The event loop owns all of it but `taken`, which the batcher's lock guards.

    Attributes:
        images: N times uint8 ``[H, W, C]``.
        probabilities: float32 ``[N, K]``, filled as answers arrive.
        deadline_s: on the clock of `time.monotonic`; None for no deadline.
        submitted_s: on the same clock.
        taken: images that left the queue, always the first ones.
    """

    images: Sequence[Pixels]
    probabilities: Probabilities
    future: asyncio.Future[Answer]
    deadline_s: float | None
    submitted_s: float
    taken: int = 0
    _answered: int = 0
    _queue_s: float = 0.0
    _infer_s: float = 0.0
    _batch_size: int = 0

    def collect(self, start: int, rows: Probabilities, times: "BatchTimes") -> bool:
        """Take the answers of a batch, for the images from ``start`` on.

        Returns:
            True where these were the last, and somebody still wants them.
        """
        self.probabilities[start : start + len(rows)] = rows
        self._answered += len(rows)
        self._queue_s = max(self._queue_s, times.started_s - self.submitted_s)
        self._infer_s = max(self._infer_s, times.ended_s - times.started_s)
        self._batch_size = max(self._batch_size, times.batch_size)
        if self._answered < len(self.images) or self.future.done():
            return False
        self.future.set_result(Answer(self.probabilities, self._queue_s, self._infer_s, self._batch_size))
        return True

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless it is settled."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class BatchTimes:
    """When a batch ran, on the clock of `time.monotonic`, and how many images it carried."""

    started_s: float
    ended_s: float
    batch_size: int


@dataclass(frozen=True)
class Seats:
    """The images ``start`` to ``stop`` of a submission, in a batch."""

    submission: Submission
    start: int
    stop: int


class ModelQueue:
    """The images that wait for one model.

    Args:
        name: of the model, for messages.
        network: answers a batch.
        label_count: K.
        max_batch_size: images per batch.
        max_queue_size: waiting images before refusal.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        label_count: int,
        max_batch_size: int,
        max_queue_size: int,
        metrics: BatcherMetrics,
    ) -> None:
        self.name = name
        self.network = network
        self.label_count = label_count
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.metrics = metrics
        self._submissions: deque[Submission] = deque()
        self._waiting = 0  # images

    @property
    def waiting(self) -> int:
        """Give the number of waiting images."""
        return self._waiting

    @property
    def oldest_s(self) -> float | None:
        """Give the time at which the longest waiting image was submitted; None where none waits."""
        return self._submissions[0].submitted_s if self._submissions else None

    def append(self, submission: Submission) -> None:
        """Queue all images of a submission."""
        self._submissions.append(submission)
        self._waiting += len(submission.images)

    def remove(self, submission: Submission) -> int:
        """Take out the images that still wait; return how many they were."""
        if submission.taken == len(submission.images):
            return 0
        self._submissions.remove(submission)
        removed = len(submission.images) - submission.taken
        submission.taken = len(submission.images)
        self._waiting -= removed
        return removed

    def expired(self, now_s: float) -> list[Submission]:
        """Take out every submission whose deadline has passed."""
        late = [s for s in self._submissions if s.deadline_s is not None and s.deadline_s <= now_s]
        for submission in late:
            self.metrics.unanswered["expired"].inc(self.remove(submission))
        return late

    def take(self) -> list[Seats]:
        """Take out the images of the next batch, oldest first."""
        seats: list[Seats] = []
        free = self.max_batch_size
        while free and self._submissions:
            submission = self._submissions[0]
            start, stop = submission.taken, min(submission.taken + free, len(submission.images))
            submission.taken = stop
            seats.append(Seats(submission, start, stop))
            free -= stop - start
            if stop == len(submission.images):
                self._submissions.popleft()
        self._waiting -= self.max_batch_size - free
        return seats

    def clear(self) -> list[Submission]:
        """Take out everything."""
        left = list(self._submissions)
        for submission in left:
            self.remove(submission)
        return left
