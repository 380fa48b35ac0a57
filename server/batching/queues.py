"""The images that wait for one model.

The batcher puts submissions in and takes the images of a batch out, all under its lock.
"""

import math
from bisect import insort_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from server.batching.latency_profile import LatencyProfile, LoopBudget
from server.batching.submissions import Submission
from server.inference import Priority
from server.observability.metrics import BatcherMetrics
from server.runtime.network import Network, Pipelined

_ABOUT_EQUAL = 1.1  # two times that are known to some 5 %


class Slice(NamedTuple):
    """The images ``start`` to ``stop`` of a submission, in a batch."""

    submission: Submission
    start: int
    stop: int


class PriorityLevel:
    """The submissions of one priority that wait for a model, in the order in which they are due.

    Attributes:
        waiting: images.
    """

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile
        self._submissions: deque[Submission] = deque()
        self._waiting_by_peer: dict[str, int] = {}  # images; only of peers with any
        self.waiting = 0

    def __iter__(self) -> Iterator[Submission]:
        return iter(self._submissions)

    @property
    def first(self) -> Submission:
        """The submission that is due first; there must be one."""
        return self._submissions[0]

    @property
    def latest_start_s(self) -> float:
        """When a batch has to begin for the first submission to be in time; there must be one."""
        return self.first.due_s - self._profile.batch_s(self._next_size)

    @property
    def _next_size(self) -> int:
        """The images of the next batch, were no deadline too near for it."""
        return min(self.waiting, self._profile.largest)

    def start_s(self, max_delay_s: float, slowdown: float) -> float:
        """Return when a batch begins that waits for more images: full, or its oldest has waited so long.

        It begins earlier where a deadline is near: with twice the time that it may take in hand.

        Args:
            slowdown: how many times as long as predicted the batch may take.
        """
        if self.waiting >= self._profile.largest:
            return -math.inf
        hand_s = 2 * slowdown * self._profile.batch_s(self.waiting)
        starts_s = [s.submitted_s + max_delay_s for s in self._submissions]
        starts_s += (s.deadline_s - hand_s for s in self._submissions if s.deadline_s is not None)
        return min(starts_s)

    def schedule(self, submission: Submission) -> None:
        """Set when a submission that comes now is due, so that peers have equal shares of the device.

        Its peer would wait for all that is here. Had every peer an equal share, it would wait the time that
        its own images take, times the number of peers: by the difference it is due earlier.
        """
        images = self._waiting_by_peer.get(submission.peer, 0) + len(submission.images)
        all_images = self.waiting + len(submission.images)
        if images == all_images:  # of this peer alone
            return
        fair_s = self._profile.drain_s(images) * self._peers_with(submission.peer)
        submission.advance(max(0.0, self._profile.drain_s(all_images) - fair_s))

    def is_within_share(self, submission: Submission, limit: int) -> bool:
        """Return whether a peer has no more than an equal share of so many images, a submission included."""
        images = self._waiting_by_peer.get(submission.peer, 0) + len(submission.images)
        return images * self._peers_with(submission.peer) <= limit

    def add(self, submission: Submission) -> None:
        """Queue all images of a submission."""
        if not self._submissions or self._submissions[-1].due_s <= submission.due_s:
            self._submissions.append(submission)
        else:
            insort_right(self._submissions, submission, key=_due_s)
        self._count(submission.peer, len(submission.images))

    def remove(self, submission: Submission) -> None:
        """Take out the images that still wait."""
        if submission.left:
            self._submissions.remove(submission)
            self._count(submission.peer, -submission.left)
            submission.taken = len(submission.images)

    def ahead(self, due_s: float) -> int:
        """Count the images that are queued before a submission that is due then."""
        if not self._submissions or self._submissions[-1].due_s <= due_s:
            return self.waiting
        total = 0
        for submission in self._submissions:
            if submission.due_s > due_s:
                break
            total += submission.left
        return total

    def is_late(
        self, submission: Submission, now_s: float, takes_s: Callable[[float], float] = lambda work_s: work_s
    ) -> bool:
        """Return whether a deadline cannot be kept any more, even if these images are next.

        Args:
            takes_s: how long work takes that begins now, beside what runs.
        """
        deadline_s, left = submission.deadline_s, submission.left
        if deadline_s is None or deadline_s > now_s + takes_s(self._profile.drain_s(left)):
            return False
        return deadline_s <= now_s + takes_s(self._profile.least_s(left, now_s))

    def drop_late(self, now_s: float, takes_s: Callable[[float], float]) -> list[Submission]:
        """Drop what cannot meet its deadline any more, as far as it would be in the next batch.

        Args:
            takes_s: how long work takes that begins now, beside what runs.
        """
        horizon_s = now_s + takes_s(self._profile.drain_s(self.waiting))  # what is due later has time enough
        late: list[Submission] = []
        counted = 0
        for submission in self._submissions:
            if submission.due_s > horizon_s or counted >= self._profile.largest:
                break
            if self.is_late(submission, now_s, takes_s):
                late.append(submission)
            else:
                counted += submission.left
        for submission in late:
            self.remove(submission)
        return late

    def best_size(self, now_s: float, slowdown: float) -> int:
        """Choose how many images run next: most per second, of the sizes that keep every deadline.

        The largest size b for which, within a tenth, no smaller one has a higher rate, and of which the
        first b images are in time::

            rate(b) = b / batch_s(b)        now + slowdown * batch_s(b) < the earliest of their deadlines

        One image runs whatever its deadline; what cannot meet it alone was dropped before.

        Args:
            slowdown: how many times as long as predicted the batch may take.
        """
        most = self._next_size
        best, best_rate = 1, 0.0
        counted, earliest_s = 0, math.inf
        submissions = iter(self._submissions)
        for size in (*(size for size in self._profile.sizes if size < most), most):
            while counted < size:
                submission = next(submissions)
                counted += submission.left
                if submission.deadline_s is not None:
                    earliest_s = min(earliest_s, submission.deadline_s)
            seconds = self._profile.batch_s(size)
            if now_s + slowdown * seconds >= earliest_s:
                break  # so would every larger one
            rate = size / seconds  # images per second
            if rate * _ABOUT_EQUAL >= best_rate:
                best, best_rate = size, max(best_rate, rate)
        return best

    def clear(self) -> list[Submission]:
        """Take out everything."""
        left = list(self._submissions)
        for submission in left:
            self.remove(submission)
        return left

    def take(self, images: int, ends_s: float = -math.inf) -> list[Slice]:
        """Take out the first images, for one batch.

        Args:
            images: how many, where there are so many.
            ends_s: when the batch ends; the first submission with an earlier deadline ends the taking.
        """
        slices: list[Slice] = []
        while images and self._submissions:
            submission = self._submissions[0]
            if submission.deadline_s is not None and submission.deadline_s <= ends_s:
                break
            start = submission.taken
            submission.taken = min(start + images, len(submission.images))
            slices.append(Slice(submission, start, submission.taken))
            submission.batches_bound += 1
            images -= submission.taken - start
            self._count(submission.peer, start - submission.taken)
            if not submission.left:
                self._submissions.popleft()
        return slices

    def _count(self, peer: str, images: int) -> None:
        """Count images in, or out."""
        self.waiting += images
        left = self._waiting_by_peer.get(peer, 0) + images
        if left:
            self._waiting_by_peer[peer] = left
        else:
            del self._waiting_by_peer[peer]

    def _peers_with(self, peer: str) -> int:
        """Count the peers with images here; one more than there are where this one has none yet."""
        return len(self._waiting_by_peer) + (peer not in self._waiting_by_peer)


class ModelQueue:
    """The images that wait for one model, in a line for each priority.

    Args:
        name: of the model, for messages.
        network: answers a batch.
        label_count: K.
        profile: of its batches.
        max_queue_size: waiting images of one priority before refusal; see `AdmissionController`.
        loop_budget: where a batch takes less than handing it over to a lane: the event loop runs it itself.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        label_count: int,
        profile: LatencyProfile,
        max_queue_size: int,
        metrics: BatcherMetrics,
        *,
        loop_budget: LoopBudget | None = None,
    ) -> None:
        self.name = name
        self.network = network
        self.pipelined = network if isinstance(network, Pipelined) else None
        self.label_count = label_count
        self.profile = profile
        self.max_queue_size = max_queue_size
        self.metrics = metrics
        self.loop_budget = loop_budget
        self.levels = tuple(PriorityLevel(profile) for _ in Priority)  # by priority

    @property
    def waiting(self) -> int:
        """The number of waiting images."""
        return sum(level.waiting for level in self.levels)


def _due_s(submission: Submission) -> float:
    return submission.due_s
