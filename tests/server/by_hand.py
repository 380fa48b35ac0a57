"""A batcher that a test moves by hand: its batches, its clock and its event loop."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry

from artifact.pictures import Pixels
from server.batching.batcher import Batcher
from server.batching.batches import Batch
from server.batching.latency_profile import LatencyProfile, LoopBudget
from server.batching.queues import ModelQueue
from server.batching.submissions import Submission
from server.inference import Priority, Probabilities
from server.observability.metrics import UNANSWERED, Metrics
from server.runtime.network import Network


class Echo:
    """A network whose answer tells the picture: its first value, as the probability of label 0 of 2."""

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        first = np.array([row.flat[0] for row in rows], np.float32) / 255  # [N]
        return np.stack([first, 1 - first], axis=1)  # [N, 2]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class ByHand:
    """A batcher whose batches the test takes and runs itself, on a clock and in a loop that it moves.

    Attributes:
        complaints: what went wrong in callbacks of the loop, a future that was settled twice say.
    """

    def __init__(
        self,
        lanes: int = 1,
        max_queue_delay_s: float = 0.0,
        side_by_side: float | None = None,
    ) -> None:
        self.clock = Clock()
        self.wake = threading.Condition()
        self.logged: list[tuple[str, Exception]] = []
        self.complaints: list[dict[str, object]] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.metrics = Metrics(CollectorRegistry())

        async def make() -> Batcher:
            return Batcher(
                self.wake,
                lambda model, error: self.logged.append((model, error)),
                lanes=lanes,
                side_by_side=side_by_side,
                max_queue_delay_s=max_queue_delay_s,
                clock=self.clock,
            )

        self.batcher = self.loop.run_until_complete(make())
        self._taken: set[int] = set()  # lanes with a batch

    def __enter__(self) -> "ByHand":
        return self

    def __exit__(self, *_: object) -> None:
        self.turn()
        self.loop.close()
        assert self.complaints == []

    def add(
        self,
        name: str,
        latency_s: dict[int, float],
        *,
        padded: bool = False,
        max_queue_size: int = 64,
        network: Network | None = None,
        max_loop_s: float | None = None,
    ) -> ModelQueue:
        """Add a model: its batches' times by their size."""
        profile = LatencyProfile(
            latency_s, padded=padded, measured_s=self.clock(), side_by_side=self.batcher.side_by_side
        )
        metrics = self.metrics.for_batcher(name)
        queue = ModelQueue(
            name,
            network or Echo(),
            2,
            profile,
            max_queue_size,
            metrics,
            loop_budget=None if max_loop_s is None else LoopBudget(profile, max_loop_s),
        )
        self.batcher.add(queue)
        return queue

    def submit(
        self,
        queue: ModelQueue,
        *values: int,
        within_s: float | None = None,
        bulk: bool = False,
        peer: str = "",
    ) -> Submission:
        """Queue pictures of one value each."""
        images = [np.full((2, 2, 1), value, np.uint8) for value in values]
        deadline_s = None if within_s is None else self.clock() + within_s
        priority = Priority.BULK if bulk else Priority.INTERACTIVE
        return self.batcher.submit(queue, images, deadline_s, priority=priority, peer=peer)

    def take(self, lane: int = 0) -> Batch | float | None:
        """Take the next batch, as a lane does whose last one has ended."""
        with self.wake:
            if lane in self._taken:
                self.batcher.release(lane)
            batch = self.batcher.take(lane)
        self._taken -= {lane}
        if isinstance(batch, Batch):
            self._taken.add(lane)
        self.turn()
        return batch

    def run(self, batch: Batch, seconds: float) -> None:
        """Run a batch for so long, and settle it."""
        batch.start()
        self.clock.now_s += seconds
        batch.finish()
        self.turn()

    def run_next(self, seconds: float) -> list[int]:
        """Take a batch, run it for so long, and return the values that it carried."""
        batch = self.take()
        assert isinstance(batch, Batch)
        self.run(batch, seconds)
        return carried(batch)

    def turn(self) -> None:
        """Let the loop do all that it can do now."""
        for _ in range(2):  # what was handed over, and the callbacks of what that settled
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def unanswered(self, name: str) -> dict[str, float]:
        """Count a model's images that were not answered, by the reasons there were."""
        counts = {
            reason: self.metrics.registry.get_sample_value(
                "modelzoo_unanswered_images_total", {"model": name, "reason": reason}
            )
            for reason in UNANSWERED
        }
        return {reason: count for reason, count in counts.items() if count}


def carried(batch: Batch | float | None) -> list[int]:
    """Give the values of the pictures in a batch, in order."""
    assert isinstance(batch, Batch)
    return [
        int(row.flat[0]) for part in batch.slices for row in part.submission.images[part.start : part.stop]
    ]
