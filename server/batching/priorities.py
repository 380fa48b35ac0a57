"""The priority policy: interactive images first, bulk ones in the time that is left."""

import math
from collections.abc import Sequence

from server.batching.batches import Batch
from server.batching.queues import ModelQueue
from server.inference import Priority

# A bulk batch that was passed over for so many times as long as it takes may go before interactive images.
_PASSED_OVER = 10


class PriorityPolicy:
    """Decides between the priorities of one device; the batcher's lock guards it.

    What holds, over all models of the device:

    - While an interactive image waits, no bulk batch begins, but for the exception below.
    - An interactive request waits for one bulk batch at the most: one that ran when it came, or one that
      began as the exception. Where a lane keeps two batches on their way, it waits for the rest of these.
    - Bulk images do not starve: one batch of them may begin while interactive images wait, if none ran
      for ten times as long as it takes, nor since the oldest of these interactive images came. So
      bulk gets up to a tenth of a device that has no time left, and all the time that is left.
    - Where one more batch slows down those that run, an interactive request that runs is like one that waits,
      and no bulk batch begins beside another.

    A batch that has begun is never stopped. On a device that pads, bulk images also fill the padding of
    interactive batches, which delays nothing.
    """

    def __init__(self) -> None:
        self._running: list[Batch] = []
        self._bulk_ended_s = -math.inf

    def began(self, batch: Batch) -> None:
        """Add a batch that begins."""
        self._running.append(batch)

    def ended(self, batch: Batch, now_s: float) -> None:
        """Remove a batch that has ended."""
        self._running.remove(batch)
        if batch.priority is Priority.BULK:
            self._bulk_ended_s = now_s

    def next(
        self, queues: Sequence[ModelQueue], now_s: float, *, slowing: bool
    ) -> tuple[Priority, list[ModelQueue]]:
        """Return the priority that runs next, and the models with such images; none where none wait.

        Args:
            slowing: whether one more batch slows down those that run.
        """
        interactive = _with_images(queues, Priority.INTERACTIVE)
        bulk = _with_images(queues, Priority.BULK)
        if bulk and self._bulk_may_begin(interactive, bulk, now_s, slowing=slowing):
            return Priority.BULK, bulk
        return Priority.INTERACTIVE, interactive

    def _bulk_may_begin(
        self,
        interactive: Sequence[ModelQueue],
        bulk: Sequence[ModelQueue],
        now_s: float,
        *,
        slowing: bool,
    ) -> bool:
        bulk_runs = any(batch.priority is Priority.BULK for batch in self._running)
        # When those came that a bulk batch would delay.
        came_s = [s.submitted_s for queue in interactive for s in queue.levels[Priority.INTERACTIVE]]
        if slowing:
            came_s += (
                part.submission.submitted_s
                for batch in self._running
                if batch.priority is Priority.INTERACTIVE
                for part in batch.slices
            )
        if not came_s:
            return not (slowing and bulk_runs)
        if bulk_runs or self._bulk_ended_s > min(came_s):
            return False
        return any(self._passed_over(queue, now_s) for queue in bulk)

    def _passed_over(self, queue: ModelQueue, now_s: float) -> bool:
        level = queue.levels[Priority.BULK]
        since_s = max(self._bulk_ended_s, level.first.submitted_s)
        longest_s = queue.profile.batch_s(min(level.waiting, queue.profile.largest))
        return now_s - since_s >= _PASSED_OVER * longest_s


def _with_images(queues: Sequence[ModelQueue], priority: Priority) -> list[ModelQueue]:
    return [queue for queue in queues if queue.levels[priority].waiting]
