"""Images that came together, as the future of their answer.

The event loop makes, settles and cancels submissions; `queues` has those that wait, `batches` those that run.
A submission knows neither.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from server.errors import ExpiredError
from server.inference import Answer, PendingAnswer, Priority, Probabilities, Rows
from server.observability.metrics import Unanswered

# Without a deadline, or with a distant one, a submission is due so long after it came: what comes later than
# that is due later, so nothing waits for ever behind urgent ones.
_PATIENCE_S = 1.0


class BatchTimes(NamedTuple):
    """When a batch ran, on the batcher's clock, and how many images it carried."""

    started_s: float
    ended_s: float
    batch_size: int


class Submission(PendingAnswer):
    """Images that came together, as the future of their answer: to all of them, or an error.

    The event loop owns all of it but `taken`, which the batcher's lock guards.

    Args:
        on_unanswered: called when it ends without an answer, with the reason; images of it may still wait.

    Attributes:
        images: N times uint8 ``[H, W, C]``.
        deadline_s: on the batcher's clock; None for no deadline.
        submitted_s: on the same clock.
        peer: that sent them.
        due_s: when it ought to run at the latest; what is due first runs first.
        taken: images that left the queue, always the first ones.
        batches_bound: batches that carry, or carried, some of the images; the batcher's lock guards it.
        batches_ended: such batches that have ended.
    """

    __slots__ = (
        *("images", "deadline_s", "priority", "submitted_s", "peer", "due_s", "taken"),
        *("batches_bound", "batches_ended"),
        *("_on_unanswered", "_collected", "_partial"),
    )

    def __init__(
        self,
        images: Rows,
        deadline_s: float | None,
        priority: Priority,
        submitted_s: float,
        on_unanswered: Callable[["Submission", Unanswered | None], None],
        loop: asyncio.AbstractEventLoop,
        peer: str = "",
    ) -> None:
        super().__init__(loop)
        self.images = images
        self.deadline_s = deadline_s
        self.priority = priority
        self.submitted_s = submitted_s
        self.peer = peer
        self.due_s = submitted_s + _PATIENCE_S
        if deadline_s is not None and deadline_s < self.due_s:
            self.due_s = deadline_s
        self.taken = 0
        self.batches_bound = self.batches_ended = 0
        self._on_unanswered = on_unanswered
        self._collected = 0
        self._partial: Answer | None = None  # to images that ride in several batches

    @property
    def left(self) -> int:
        """The number of images that still wait."""
        return len(self.images) - self.taken

    @property
    def is_in_batch(self) -> bool:
        """Whether a batch that runs may still read the images, even if this is settled."""
        return self.batches_bound > self.batches_ended

    def advance(self, seconds: float) -> None:
        """Make this due so much earlier than others that came when it did."""
        self.due_s = min(self.due_s, self.submitted_s + _PATIENCE_S - seconds)

    def batch_ended(self) -> None:
        """Count a batch that carried some of the images, and has ended."""
        self.batches_ended += 1
        if self.on_batch_ended is not None:
            self.on_batch_ended()

    def collect(self, start: int, rows: Probabilities, times: BatchTimes, now_s: float) -> Answer | None:
        """Take a batch's answers to the images from ``start`` on; settle where these were the last.

        Returns:
            The answer to all images, where this has settled with it.
        """
        if self.done():
            return None
        queue_s, infer_s = times.started_s - self.submitted_s, times.ended_s - times.started_s
        if len(rows) == len(self.images):
            answer = Answer(rows, queue_s, infer_s, times.batch_size)
        else:
            so_far = self._partial or Answer(np.empty((len(self.images), rows.shape[1]), np.float32), 0, 0, 0)
            so_far.probabilities[start : start + len(rows)] = rows
            answer = self._partial = Answer(
                so_far.probabilities,
                max(so_far.queue_s, queue_s),
                max(so_far.infer_s, infer_s),
                max(so_far.batch_size, times.batch_size),
            )
            self._collected += len(rows)
            if self._collected < len(self.images):
                return None
        if self.deadline_s is not None and self.deadline_s <= now_s:
            self.fail(ExpiredError("the answer came after the deadline"), "expired")
            return None
        self.set_result(answer)
        return answer

    def fail(self, error: Exception, reason: Unanswered | None = None) -> None:
        """Settle with an error, unless it is settled; None for a reason that is not counted."""
        if not self.done():
            self.set_exception(error)
            self._on_unanswered(self, reason)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel as every future does; images that still wait leave the queue at once."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._on_unanswered(self, "cancelled")
        return cancelled
