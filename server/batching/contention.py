"""The lanes of a device: which are busy, until when, and how their batches slow each other down."""

import math


class Contention:
    """Predicts the ends of batches that run at the same time on the same cores, and counts their work.

    Work is the time that a batch would have taken alone. The batcher reports what begins and ends, under its
    lock; `slowdown` and `work_s` are read without it. Cores are taken to be shared out evenly and all used,
    though a batch that was handed to a pool of two (`runs`) keeps to one thread even when it is left alone,
    and batches of tiny networks do not slow each other down.

    Args:
        lanes: batches that run at the same time.
        side_by_side: how many of them do not slow each other down; where each has a thread for every core,
            one.
        now_s: on the batcher's clock.
    """

    def __init__(self, lanes: int, side_by_side: float, now_s: float) -> None:
        self.side_by_side = side_by_side
        self._until_s = [-math.inf] * lanes  # as predicted; -inf for a lane that is free
        self._state = (now_s, 0.0, 1.0)

    @property
    def slowdown(self) -> float:
        """How many times as long a batch takes now as it does alone."""
        return self._state[2]

    @property
    def slowest(self) -> float:
        """The slowdown while all lanes are busy."""
        return self._slowdown(len(self._until_s))

    @property
    def any_free(self) -> bool:
        """Whether a lane has nothing to do."""
        return -math.inf in self._until_s

    def beside(self, lane: int | None) -> float:
        """Return the slowdown of a batch that begins on a lane (None: on the loop), beside the others."""
        return self._slowdown(1 + len(self._others(lane)))

    def free_s(self, lane: int, now_s: float) -> float:
        """Predict when a lane is free."""
        return max(now_s, self._until_s[lane])

    def begin(self, lane: int, until_s: float, now_s: float) -> None:
        """Add a batch that should end then; the others end later."""
        self._change(lane, until_s, now_s)

    def end(self, lane: int, now_s: float) -> None:
        """Remove the batch of a lane; the others end sooner."""
        self._change(lane, -math.inf, now_s)

    def running_s(self, now_s: float) -> float:
        """Predict how long the device takes for what runs."""
        left_s = [until_s - now_s for until_s in self._until_s if until_s > now_s]
        return sum(left_s) / max(len(left_s), self.side_by_side)

    def takes_s(self, work_s: float, now_s: float, lane: int | None = None) -> float:
        """Predict how long work takes that begins now, if nothing else begins.

        Another batch with r seconds left has r / slowdown of work left, and shares the cores for no longer
        than the new work lasts. So work w, beside batches with r1, r2, ... left, takes::

            max(w, (w + min(r1 / slowdown, w) + min(r2 / slowdown, w) + ...) / side_by_side)

        Args:
            lane: on which it begins; what ran there has ended. None for any that is free.
        """
        others_s = (self._until_s[other] - now_s for other in self._others(lane))
        shared_s = work_s + sum(min(left_s / self.slowdown, work_s) for left_s in others_s if left_s > 0)
        return max(work_s, shared_s / self.side_by_side)

    def work_s(self, now_s: float) -> float:
        """Return the work of a batch that ran all the time, in seconds of a batch that runs alone."""
        since_s, work_s, slowdown = self._state
        return work_s + (now_s - since_s) / slowdown

    def _others(self, lane: int | None) -> list[int]:
        """Return the lanes that are busy, but for one."""
        return [other for other, until_s in enumerate(self._until_s) if until_s > -math.inf and other != lane]

    def _slowdown(self, batches: int) -> float:
        """Return how many times as long a batch takes among so many as it does alone."""
        return max(1.0, batches / self.side_by_side)

    def _change(self, lane: int, until_s: float, now_s: float) -> None:
        """Set when a lane will be free; what runs on the others has as much work left, at another pace.

        Where the slowdown changes from s to t, a batch that should end at u ends at now + (u - now) * t / s.
        """
        others = self._others(lane)
        before, now = self.slowdown, self._slowdown(len(others) + (until_s > -math.inf))
        self._state = (now_s, self.work_s(now_s), now)
        for other in others:
            left_s = self._until_s[other] - now_s
            if left_s > 0:
                self._until_s[other] = now_s + left_s * now / before
        self._until_s[lane] = until_s
