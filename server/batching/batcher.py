"""The choice of a device's next batch, among the queues of its models.

Handlers submit images on the event loop; lanes take batches on their threads. A batch is bound as late
as can be: only when a lane is free, so it grows while the device is busy. Where a batch takes less than
handing it over to a lane, the event loop runs it itself, at the end of the turn in which its images came.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from server import deadlines
from server.batching.admission import AdmissionController
from server.batching.batches import Batch
from server.batching.contention import Contention
from server.batching.priorities import PriorityPolicy
from server.batching.queues import ModelQueue
from server.batching.submissions import Submission
from server.errors import ExpiredError, ModelNotReadyError
from server.inference import Priority, Rows
from server.observability.metrics import Unanswered
from server.threads import hand_over


class Batcher:
    """The queues of one device.

    Args:
        wake: notified when there is something to take; its lock guards the queues. Shared with the
            device's lane, which waits on it.
        log_failure: called for a batch that the device failed: the model's name and the cause.
        lanes: batches that run at the same time.
        side_by_side: how many of them do not slow each other down; all, where none is given.
        max_queue_delay_s: how long the oldest image of a batch that could be larger waits for more to
            come, while the device is free; never so long that a deadline could not be kept.
        clock: of deadlines and of all times.
    """

    def __init__(
        self,
        wake: threading.Condition,
        log_failure: Callable[[str, Exception], None],
        *,
        lanes: int = 1,
        side_by_side: float | None = None,
        max_queue_delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wake = wake
        self._log_failure = log_failure
        self._max_queue_delay_s = max_queue_delay_s
        self._clock = clock
        self._queues: list[ModelQueue] = []
        self._running: list[deque[Batch]] = [deque() for _ in range(lanes)]  # by lane, in the order of taking
        self._contention = Contention(lanes, lanes if side_by_side is None else side_by_side, clock())
        self._policy = PriorityPolicy()
        self._admission = AdmissionController(self._queues, self._contention)
        self._closed = False
        self._waking = False
        self._loop = asyncio.get_running_loop()

    @property
    def side_by_side(self) -> float:
        """Return how many batches run at the same time without slowing each other down."""
        return self._contention.side_by_side

    def add(self, queue: ModelQueue) -> None:
        """Serve a model from now on."""
        with self._wake:
            self._queues.append(queue)

    def remove(self, queue: ModelQueue) -> None:
        """Serve a model no more; nothing waits for it."""
        with self._wake:
            self._queues.remove(queue)

    def submit(
        self,
        queue: ModelQueue,
        images: Rows,
        deadline_s: float | None = None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        peer: str = "",
    ) -> Submission:
        """Queue images, and return the future of their answer; cancelling it drops those that still wait.

        Args:
            images: uint8 ``[H, W, C]`` each, of the model's shape; at least one.
            deadline_s: on the clock of `time.monotonic`; None for no deadline.
            peer: that sent them; each has an equal share of the queue.

        Raises:
            OverloadedError: the queue has no room for all of them, or what waits already would make
                them late.
            ExpiredError: the deadline passed, or cannot be met any more; later the future has it.
            ModelNotReadyError: the server is stopping; later the future has it.

        The future may also have an InferenceError: the device failed a batch that carried one of them, or
        answered one with what is no number.
        """
        ended = partial(self._ended_unanswered, queue)
        submission = Submission(images, deadline_s, priority, self._clock(), ended, self._loop, peer)
        level = queue.levels[priority]
        with self._wake:
            if self._closed:
                raise ModelNotReadyError("the server is stopping")
            level.schedule(submission)
            self._admission.check(queue, submission)
            level.add(submission)
        if not self._waking:  # what comes in this turn of the event loop can join the batch
            self._waking = True
            self._loop.call_soon(self._end_turn)
        return submission

    def release(self, lane: int) -> None:
        """Count the oldest batch that was taken for a lane as ended; the lane calls it, with the lock."""
        running, now_s = self._running[lane], self._clock()
        self._policy.ended(running.popleft(), now_s)
        if not running:
            self._contention.end(lane, now_s)

    def take(self, lane: int | None = 0) -> Batch | float | None:
        """Bind the next batch, of the model with least slack.

        The policy names the priority that runs next, and the models with such images. Of these, without those
        that may wait for more images, the one is taken with the least slack::

            slack = when its first images are due - now - what their batch takes

        What cannot meet its deadline any more expires here, before any computing; then all of that is asked
        again. Called by a lane, which holds the lock.

        Args:
            lane: the number of its thread. A batch may begin there while the one before is on its way. None
                for the event loop, which takes only what it may run itself.

        Returns:
            None where no image waits; a time, in seconds, where more are waited for: come again then, or when
            woken.
        """
        now_s = self._clock()
        while True:
            priority, queues = self._policy.next(
                self._queues, now_s, slowing=self._contention.beside(lane) > 1
            )
            if lane is None:
                queues = [queue for queue in queues if _fits_loop(queue, now_s)]
            if not queues:
                return None
            if self._max_queue_delay_s:
                slowest = self._contention.slowest
                starts_s = {q: q.levels[priority].start_s(self._max_queue_delay_s, slowest) for q in queues}
                queues = [queue for queue in queues if starts_s[queue] <= now_s]
                if not queues:
                    return min(starts_s.values()) - now_s
            queue = min(queues, key=lambda queue: queue.levels[priority].latest_start_s)
            level = queue.levels[priority]
            alone = sum(queue.waiting for queue in self._queues) == level.first.left
            late = level.drop_late(now_s, partial(self._takes_s, lane, now_s, alone=alone))
            if not late:
                return self._bind(queue, priority, lane, now_s)
            hand_over(self._loop, _expire, late)

    def close(self) -> None:
        """Take no more, and fail what still waits; what runs is still answered."""
        with self._wake:
            self._closed = True
            left = [s for queue in self._queues for level in queue.levels for s in level.clear()]
        for submission in left:
            submission.fail(ModelNotReadyError("the server is stopping"))

    def _bind(self, queue: ModelQueue, priority: Priority, lane: int | None, now_s: float) -> Batch:
        level = queue.levels[priority]
        starts_s = now_s if lane is None else self._contention.free_s(lane, now_s)
        # A size that keeps deadlines keeps them even if all lanes get busy; that they do is not predicted.
        images = level.best_size(starts_s, self._contention.slowest)
        ends_s = starts_s + queue.profile.batch_s(images) * self._contention.beside(lane)
        slices = level.take(images)
        free = queue.profile.padded_size(images) - images
        if free and priority is Priority.INTERACTIVE:
            slices += queue.levels[Priority.BULK].take(free, ends_s)
        batch = Batch(
            queue, priority, slices, ends_s, self._loop, self._clock, self._contention, self._log_failure
        )
        self._policy.began(batch)
        if lane is not None:
            self._running[lane].append(batch)
            self._contention.begin(lane, ends_s, now_s)
        return batch

    def _takes_s(self, lane: int | None, now_s: float, work_s: float, *, alone: bool) -> float:
        """Predict how long work takes that begins now on a lane.

        Args:
            alone: whether nothing else waits that would begin when others end.
        """
        if alone:
            return self._contention.takes_s(work_s, now_s, lane)
        return work_s * self._contention.beside(lane)

    def _end_turn(self) -> None:
        """Run one batch here, if there is one for the event loop; leave all else that waits to the lanes."""
        self._waking = False
        with self._wake:
            batch = self.take(None)
        own: list[ModelQueue] = []
        if isinstance(batch, Batch):
            now_s = self._run_on_loop(batch)
            own = [queue for queue in self._queues if _fits_loop(queue, now_s)]
        if own:  # what else happens on the event loop comes first
            self._waking = True
            self._loop.call_soon(self._end_turn)
        with self._wake:  # as many lanes as there could be batches: a batch may be one image
            self._wake.notify(sum(queue.waiting for queue in self._queues if queue not in own))

    def _run_on_loop(self, batch: Batch) -> float:
        """Run a batch and settle it; return when it ended."""
        try:
            batch.start()
            ended_s = batch.finish(on_loop=True)
        except BaseException as error:
            batch.fail(error)
            raise
        finally:
            with self._wake:
                self._policy.ended(batch, self._clock())
        if batch.queue.loop_budget:
            batch.queue.loop_budget.observe(batch.images, ended_s - batch.started_s, ended_s)
        return ended_s

    def _ended_unanswered(self, queue: ModelQueue, submission: Submission, reason: Unanswered | None) -> None:
        """Take out the images that still wait, because their answer is not wanted any more, and count all."""
        with self._wake:
            queue.levels[submission.priority].remove(submission)
        if reason == "cancelled" and deadlines.over(submission.deadline_s, self._clock()):
            reason = "expired"
        if reason is not None:
            queue.metrics.unanswered[reason].inc(len(submission.images))


def _fits_loop(queue: ModelQueue, now_s: float) -> bool:
    """Return whether the event loop may run what waits for a model."""
    return queue.loop_budget is not None and queue.loop_budget.fits(queue.waiting, now_s)


def _expire(submissions: Sequence[Submission]) -> None:
    for submission in submissions:
        submission.fail(ExpiredError("deadline passed in the queue, or cannot be met any more"), "expired")
