"""Whatever happens: every future is settled once, with its own answer or an error, and in time.

Lanes and clock are simulated; batcher, queues, futures and event loop are real.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.batching.batches import Batch
from server.batching.queues import ModelQueue
from server.batching.submissions import Submission
from server.errors import ExpiredError, InferenceError, ModelNotReadyError, OverloadedError
from server.inference import Priority

LANES = 3
CURVES = ({1: 0.010, 2: 0.012, 4: 0.016, 8: 0.024}, {2: 0.050, 8: 0.100})  # the second pads


class Numbered:
    """A network whose answer is the picture's number, and no number at all for a marked one.

    Attributes:
        fault: how it answers the next batch.
    """

    def __init__(self) -> None:
        self.fault = "none"

    def infer(self, rows: list[np.ndarray]) -> np.ndarray:
        if self.fault == "raises":
            raise RuntimeError("out of memory")
        answers = np.zeros((len(rows), 2), np.float32)  # [N, K]
        for answer, row in zip(answers, rows, strict=True):
            number, marked = row.view(np.uint32)[0, 0]
            answer[:] = np.nan if marked else number
        return answers[:-1] if self.fault == "is short" else answers


@dataclass
class Asked:
    """A submission, and what must become of it."""

    queue: ModelQueue
    future: Submission
    first: int
    marked: bool
    settled_s: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Check an answer, or the error in its place."""
        assert len(self.settled_s) == 1
        assert self.future.left == 0
        if self.future.cancelled():
            return
        error = self.future.exception()
        if error is not None:
            assert isinstance(error, ExpiredError | InferenceError | ModelNotReadyError)
            return
        assert not self.marked
        assert self.future.deadline_s is None or self.settled_s[0] < self.future.deadline_s
        count = len(self.future.images)
        wanted = np.arange(self.first, self.first + count, dtype=np.float32)
        np.testing.assert_array_equal(self.future.result().probabilities, np.stack([wanted, wanted], axis=1))


class World:
    """A batcher, what was asked of it and what runs."""

    def __init__(self, hand: Any) -> None:
        self.hand = hand
        self.networks = [Numbered(), Numbered()]
        self.queues = [
            hand.add(f"model-{index}", curve, padded=index == 1, max_queue_size=24, network=network)
            for index, (curve, network) in enumerate(zip(CURVES, self.networks, strict=True))
        ]
        self.asked: list[Asked] = []
        self.images = 0
        self.refused_by_the_stop = 0
        # What each lane has on its way, by the numbers under which it was taken; two at the most.
        self.running: list[deque[Batch]] = [deque() for _ in range(LANES)]
        self.closed = False

    def submit(self, model: int, count: int, within_s: float | None, *, bulk: bool, marked: bool) -> None:
        pictures = [np.uint32([[[self.images + at, 0]]]).view(np.uint8) for at in range(count)]
        if marked:
            pictures[count // 2].view(np.uint32)[0, 0, 1] = 1
        deadline_s = None if within_s is None else self.hand.clock() + within_s
        first, self.images = self.images, self.images + count
        priority = Priority.BULK if bulk else Priority.INTERACTIVE
        queue = self.queues[model]
        try:
            future = self.hand.batcher.submit(queue, pictures, deadline_s, priority=priority)
        except (OverloadedError, ExpiredError):
            return
        except ModelNotReadyError:
            assert self.closed
            self.refused_by_the_stop += count
            return
        asked = Asked(queue, future, first, marked)
        future.add_done_callback(lambda _: asked.settled_s.append(self.hand.clock()))
        self.asked.append(asked)

    def cancel(self, index: int) -> None:
        if self.asked:
            self.asked[index % len(self.asked)].future.cancel()

    def take(self, lane: int, fault: str) -> None:
        if len(self.running[lane]) == 2:  # as many as a network has on its way
            return
        with self.hand.wake:
            batch = self.hand.batcher.take(lane)
        if not isinstance(batch, Batch):
            assert (batch is None) == (sum(queue.waiting for queue in self.queues) == 0)
            return
        assert 1 <= batch.images <= batch.queue.profile.largest
        for part in batch.slices:
            assert not part.submission.done(), "computed for nobody"
            deadline_s = part.submission.deadline_s
            assert deadline_s is None or deadline_s > self.hand.clock(), "computed too late"
        self.networks[self.queues.index(batch.queue)].fault = fault
        batch.start()
        self.running[lane].append(batch)

    def finish(self, lane: int) -> None:
        if self.running[lane]:
            self.running[lane].popleft().finish()
            with self.hand.wake:
                self.hand.batcher.release(lane)

    def wait(self, seconds: float) -> None:
        self.hand.clock.now_s += seconds

    def close(self) -> None:
        self.hand.batcher.close()
        self.closed = True

    def check(self) -> None:
        """Check what must hold at any time."""
        for queue in self.queues:
            left = [asked.future.left for asked in self.asked if asked.queue is queue]
            assert queue.waiting == sum(left)
        assert all(asked.future.left == 0 for asked in self.asked if asked.future.done())

    def end(self) -> None:
        """Let all that waits run, and check what became of everything."""
        while any(self.running) or any(queue.waiting for queue in self.queues):
            for lane in range(LANES):
                self.finish(lane)
                self.take(lane, "none")
            self.wait(0.05)
            self.hand.turn()
        for asked in self.asked:
            asked.check()
        counted = self.refused_by_the_stop
        counted += sum(sum(self.hand.unanswered(queue.name).values()) for queue in self.queues)
        for future in (asked.future for asked in self.asked if not asked.future.cancelled()):
            if future.exception() is None or isinstance(future.exception(), ModelNotReadyError):
                counted += len(future.images)
        assert counted == self.images, "every image is counted once"


WITHIN_S = st.none() | st.floats(-0.05, 1.0)
STEPS = st.lists(
    st.one_of(
        st.builds(
            lambda *given, bulk, marked: lambda world: world.submit(*given, bulk=bulk, marked=marked),
            st.integers(0, 1),
            st.integers(1, 12),
            WITHIN_S,
            bulk=st.booleans(),
            marked=st.sampled_from([False] * 5 + [True]),
        ),
        st.builds(lambda index: lambda world: world.cancel(index), st.integers(0, 99)),
        st.builds(
            lambda lane, fault: lambda world: world.take(lane, fault),
            st.integers(0, LANES - 1),
            st.sampled_from(["none"] * 5 + ["raises", "is short"]),
        ),
        st.builds(lambda lane: lambda world: world.finish(lane), st.integers(0, LANES - 1)),
        st.builds(lambda seconds: lambda world: world.wait(seconds), st.floats(0.001, 0.3)),
        st.sampled_from([lambda world: world.close()] + [lambda world: world.wait(0.01)] * 20),
    ),
    max_size=80,
)


def live(by_hand, steps, turns, delay_s: float) -> None:
    with by_hand(lanes=LANES, max_queue_delay_s=delay_s) as hand:
        world = World(hand)
        for step, turn in zip(steps, turns, strict=False):
            step(world)
            if turn:  # the loop may be slow to hear of what the lanes did
                hand.turn()
                world.check()
        hand.turn()
        world.end()


GIVEN = given(
    steps=STEPS,
    turns=st.lists(st.booleans(), min_size=80, max_size=80),
    delay_s=st.sampled_from([0.0, 0.0, 0.05]),
)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@GIVEN
def test_every_future_is_settled_once_with_its_own_answer_or_an_error_in_time(
    by_hand, steps, turns, delay_s
) -> None:
    live(by_hand, steps, turns, delay_s)


@pytest.mark.slow
@settings(max_examples=3_000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@GIVEN
def test_many_more_lives_of_a_batcher(by_hand, steps, turns, delay_s) -> None:
    live(by_hand, steps, turns, delay_s)
