"""How batches slow each other down that run at the same time on the same cores."""

from collections.abc import Iterable


class Pace:
    """Counts the work of a device: the time that its batches would have taken, each alone.

    The batcher tells it how many run, under its lock; whoever reads needs none. It takes the cores for shared
    out evenly and all of them for used, though a batch that was handed to a pool of two (`runs`) keeps to one
    thread even when it is left alone, and batches of tiny networks do not slow each other down.

    Args:
        side_by_side: batches that do not slow each other down: of as many threads as there are cores, one.
        now_s: on the batcher's clock.
    """

    def __init__(self, side_by_side: float, now_s: float) -> None:
        self.side_by_side = side_by_side
        self._state = (now_s, 0.0, 1.0)

    @property
    def now(self) -> float:
        """Tell how many times as long a batch takes now as it does alone."""
        return self._state[2]

    def slowdown(self, batches: int) -> float:
        """Tell how many times as long a batch takes among so many as it does alone."""
        return max(1.0, batches / self.side_by_side)

    def change(self, batches: int, now_s: float) -> float:
        """Take note that so many batches run from now on.

        Returns:
            How many times as long each will take now for what it has left.
        """
        before, now = self._state[2], self.slowdown(batches)
        self._state = (now_s, self.work_s(now_s), now)
        return now / before

    def left_s(self, ends_s: Iterable[float], now_s: float) -> list[float]:
        """Give the work that is left of batches, by their predicted ends; nothing for those overdue."""
        return [(end_s - now_s) / self.now for end_s in ends_s if end_s > now_s]

    def beside_s(self, work_s: float, others_s: Iterable[float]) -> float:
        """Tell how long work takes that begins now beside others, if nothing else begins.

        Args:
            work_s: in seconds of a batch that runs alone.
            others_s: what the others have left, in the same.
        """
        shared_s = work_s + sum(min(other_s, work_s) for other_s in others_s)
        return max(work_s, shared_s / self.side_by_side)

    def work_s(self, now_s: float) -> float:
        """Give how far a batch that ran all the time has come, in seconds of a batch that runs alone."""
        since_s, work_s, slowdown = self._state
        return work_s + (now_s - since_s) / slowdown
