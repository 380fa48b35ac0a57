"""The door: who is refused before anything waits for them, and when they should come back."""

import math
from collections.abc import Mapping, Sequence

from server.batches import Batch
from server.errors import ExpiredError, OverloadedError
from server.queues import ModelQueue
from server.submissions import Priority, Submission

_LEAST_RETRY_S = 0.01  # below it, asking again is most of the load


class Door:
    """Lets submissions into the queues of one device, or refuses them; the batcher's lock guards it.

    Args:
        queues: of all models of the device.
        running: the batches that run now, by the numbers under which they were taken.
        lanes: batches that run at the same time, one behind the other on their way not counted.
    """

    def __init__(self, queues: Sequence[ModelQueue], running: Mapping[int, Batch], lanes: int) -> None:
        self._queues = queues
        self._running = running
        self._lanes = lanes

    def check(self, submission: Submission) -> None:
        """Let a submission in that comes now, by returning.

        Each priority has a bound of its own: neither keeps the other out.

        Raises:
            OverloadedError: there is no room for all of its images, or so many go before it that it
                would be late.
            ExpiredError: it is late already, or would be were nobody else there.
        """
        queue, images, now_s = submission.queue, len(submission.images), submission.submitted_s
        waiting = queue.lines[submission.priority].waiting
        excess = waiting + images - queue.max_queue_size
        if excess > 0:
            queue.metrics.unanswered["queue_full"].inc(images)
            raise OverloadedError(
                f"{waiting} images wait for {queue.name}, of {queue.max_queue_size} that may; "
                f"{images} more do not fit",
                max(_LEAST_RETRY_S, self._running_s(now_s) + queue.costs.drain_s(excess)),
            )
        if submission.deadline_s is None:
            return
        late_s = now_s + self._work_s(submission) - submission.deadline_s
        if late_s < 0:
            return
        if submission.hopeless(now_s):
            queue.metrics.unanswered["expired"].inc(images)
            raise ExpiredError("the deadline is over, or too near for this model")
        queue.metrics.unanswered["late"].inc(images)
        raise OverloadedError(
            f"so much waits for the device that {queue.name} would answer {late_s:.3f} s after the deadline",
            max(_LEAST_RETRY_S, late_s),
        )

    def _work_s(self, submission: Submission) -> float:
        """Predict how long the device takes for what runs, what goes before a submission, and itself."""
        now_s = submission.submitted_s
        total_s = self._running_s(now_s)
        for queue in self._queues:
            ahead = queue.lines[submission.priority].ahead(submission.due_s)
            if submission.priority is Priority.BULK:
                ahead += queue.lines[Priority.INTERACTIVE].waiting
            if queue is submission.queue:
                total_s += queue.costs.least_s(ahead + len(submission.images), now_s)
            else:
                total_s += queue.costs.drain_s(ahead)
        return total_s

    def busy_until_s(self, number: int) -> float:
        """Predict when a thread of the lane ends what it runs; the past where that is nothing.

        Args:
            number: under which the thread takes batches, see `Batcher.take`.
        """
        return max(
            (batch.ends_s for other, batch in self._running.items() if (other - number) % self._lanes == 0),
            default=-math.inf,
        )

    def _running_s(self, now_s: float) -> float:
        """Predict how long the lanes, on the average, take for what runs."""
        return sum(max(0.0, self.busy_until_s(lane) - now_s) for lane in range(self._lanes)) / self._lanes
