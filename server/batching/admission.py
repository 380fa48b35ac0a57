"""The door: who is refused before anything waits for them, and when they should come back."""

from collections.abc import Sequence

from server.batching.contention import Contention
from server.batching.queues import ModelQueue
from server.batching.submissions import Submission
from server.errors import ExpiredError, OverloadedError
from server.inference import Priority

_OVERFILL = 4  # a full queue has room for a quarter more, of peers with little in it
_LEAST_RETRY_S = 0.01  # below it, asking again is most of the load


class AdmissionController:
    """Lets submissions into the queues of one device, or refuses them; the batcher's lock guards it.

    Args:
        queues: of all models of the device.
        pace: predicts when what runs ends.
    """

    def __init__(self, queues: Sequence[ModelQueue], pace: Contention) -> None:
        self._queues = queues
        self._pace = pace

    def check(self, queue: ModelQueue, submission: Submission) -> None:
        """Let a submission in that comes now, by returning.

        Each priority has a bound of its own: neither keeps the other out. Nor does one peer keep another out:
        a full queue has some room more, for those who hold no more than an equal share of that room.

        Raises:
            OverloadedError: there is no room for all of its images, or so many go before it that it
                would be late.
            ExpiredError: it is late already, or would be were nobody else there.
        """
        images, now_s = len(submission.images), submission.submitted_s
        line = queue.lines[submission.priority]
        waiting = line.waiting
        excess = waiting + images - queue.max_queue_size
        spare = queue.max_queue_size // _OVERFILL
        if excess > spare or (excess > 0 and not line.is_within_share(submission, spare)):
            queue.metrics.unanswered["queue_full"].inc(images)
            raise OverloadedError(
                f"{waiting} images wait for {queue.name}, of {queue.max_queue_size} that may; "
                f"{images} more do not fit",
                max(_LEAST_RETRY_S, self._pace.running_s(now_s) + queue.costs.drain_s(excess)),
            )
        if submission.deadline_s is None:
            return
        late_s = now_s + self._work_s(queue, submission) - submission.deadline_s
        if late_s < 0:
            return
        # A prediction for this model that refuses it is believed the less the longer nothing ran.
        late_s -= queue.costs.drain_s(images) - queue.costs.least_s(images, now_s)
        if late_s < 0:
            return
        if line.is_hopeless(submission, now_s):
            queue.metrics.unanswered["expired"].inc(images)
            raise ExpiredError("the deadline is over, or too near for this model")
        queue.metrics.unanswered["late"].inc(images)
        raise OverloadedError(
            f"so much waits for the device that {queue.name} would answer {late_s:.3f} s after the deadline",
            max(_LEAST_RETRY_S, late_s),
        )

    def _work_s(self, to: ModelQueue, submission: Submission) -> float:
        """Predict how long the device takes for what runs, what goes before a submission, and itself."""
        total_s = 0.0
        for queue in self._queues:
            ahead = len(submission.images) if queue is to else 0
            if queue.lines[submission.priority].waiting:
                ahead += queue.lines[submission.priority].ahead(submission.due_s)
            if submission.priority is Priority.BULK:
                ahead += queue.lines[Priority.INTERACTIVE].waiting
            total_s += queue.costs.drain_s(ahead)
        now_s = submission.submitted_s
        if self._pace.any_free:  # it begins at once
            return self._pace.takes_s(total_s, now_s)
        # Whoever comes after them begins beside their own images, and slows these down.
        own_s = to.costs.drain_s(len(submission.images))
        return self._pace.running_s(now_s) + total_s + own_s * (self._pace.slowest - 1)
