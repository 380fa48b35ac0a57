"""Admission control: what is rejected before it waits, and when the client should retry."""

from collections.abc import Sequence

from server.batching.contention import Contention
from server.batching.queues import ModelQueue
from server.batching.submissions import Submission
from server.errors import ExpiredError, OverloadedError
from server.inference import Priority

_OVERFILL = 4  # a full queue has room for a quarter more, of peers with little in it
_LEAST_RETRY_S = 0.01  # below it, asking again is most of the load


class AdmissionController:
    """Admits submissions into the queues of one device, or rejects them; the batcher's lock guards it.

    Args:
        queues: of all models of the device.
        contention: predicts when what runs ends.
    """

    def __init__(self, queues: Sequence[ModelQueue], contention: Contention) -> None:
        self._queues = queues
        self._contention = contention

    def check(self, queue: ModelQueue, submission: Submission) -> None:
        """Admit a submission that comes now, by returning.

        Each priority has a bound of its own: neither locks the other out. Nor does one peer lock another out:
        a full queue has some room more, for peers that hold no more than an equal share of that room.

        Raises:
            OverloadedError: there is no room for all of its images, or so many go before it that it
                would be late.
            ExpiredError: it is late already, or would be on an idle device.
        """
        images, now_s = len(submission.images), submission.submitted_s
        level = queue.levels[submission.priority]
        waiting = level.waiting
        excess = waiting + images - queue.max_queue_size
        spare = queue.max_queue_size // _OVERFILL
        if excess > spare or (excess > 0 and not level.is_within_share(submission, spare)):
            queue.metrics.unanswered["queue_full"].inc(images)
            raise OverloadedError(
                f"queue full: {waiting} of {queue.max_queue_size} images queued for {queue.name}, "
                f"{images} requested",
                max(_LEAST_RETRY_S, self._contention.running_s(now_s) + queue.profile.drain_s(excess)),
            )
        if submission.deadline_s is None:
            return
        late_s = now_s + self._work_s(queue, submission) - submission.deadline_s
        if late_s < 0:
            return
        # A prediction for this model that refuses it is believed the less the longer nothing ran.
        late_s -= queue.profile.drain_s(images) - queue.profile.least_s(images, now_s)
        if late_s < 0:
            return
        if level.is_late(submission, now_s):
            queue.metrics.unanswered["expired"].inc(images)
            raise ExpiredError("deadline cannot be met: it has passed, or is shorter than one batch takes")
        queue.metrics.unanswered["late"].inc(images)
        raise OverloadedError(
            f"deadline cannot be met: predicted completion of {queue.name} {1000 * late_s:.0f} ms late",
            max(_LEAST_RETRY_S, late_s),
        )

    def _work_s(self, to: ModelQueue, submission: Submission) -> float:
        """Predict how long the device takes for what runs, what is queued before a submission, and itself.

        With T the time to drain all models' images up to its own, each model alone on an idle device::

            a lane is free    takes_s(T)
            none is           what runs + T + its own images' time * (slowest - 1)
        """
        total_s = 0.0
        for queue in self._queues:
            ahead = len(submission.images) if queue is to else 0
            if queue.levels[submission.priority].waiting:
                ahead += queue.levels[submission.priority].ahead(submission.due_s)
            if submission.priority is Priority.BULK:
                ahead += queue.levels[Priority.INTERACTIVE].waiting
            total_s += queue.profile.drain_s(ahead)
        now_s = submission.submitted_s
        if self._contention.any_free:  # it begins at once
            return self._contention.takes_s(total_s, now_s)
        # Later submissions begin beside these images, and slow them down.
        own_s = to.profile.drain_s(len(submission.images))
        return self._contention.running_s(now_s) + total_s + own_s * (self._contention.slowest - 1)
