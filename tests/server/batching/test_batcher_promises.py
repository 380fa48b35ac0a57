"""What the batcher promises under load, over simulated lanes, a simulated clock and random arrivals.

Nobody starves, bulk images cost others one batch at the most, and a device that is asked for too much does
what it can.
"""

import functools
import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batching.batches import Batch
from server.batching.submissions import Submission
from server.errors import ExpiredError, OverloadedError
from server.inference import Priority

CURVES = ({1: 0.010, 2: 0.012, 4: 0.016, 8: 0.024}, {2: 0.020, 8: 0.040})  # the second pads
MOST_WAITING = 64


@dataclass
class Asked:
    future: Submission
    left_queue_s: float | None = None  # when the last of its images left the queue
    ended_s: float = math.inf

    @property
    def wait_s(self) -> float:
        return self.left_queue_s - self.future.submitted_s


@dataclass
class Ran:
    priority: Priority
    began_s: float
    ended_s: float = math.inf


@dataclass
class Running:
    batch: Batch
    ran: Ran
    left_s: float  # that it would take alone


@dataclass
class Simulation:
    """Lanes that take a batch whenever they are free, and run it about as long as predicted.

    Batches beyond the first ``side_by_side`` slow each other down, all by the same.
    """

    hand: Any
    lanes: int
    chance: random.Random
    side_by_side: float = math.inf
    asked: list[Asked] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.queues = [
            self.hand.add(f"model-{index}", curve, padded=index == 1, max_queue_size=MOST_WAITING)
            for index, curve in enumerate(CURVES)
        ]
        self._takes_s = {
            queue: [queue.profile.batch_s(images) for images in range(queue.profile.largest + 1)]
            for queue in self.queues
        }
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._free = set(range(self.lanes))
        self._running: dict[int, Running] = {}  # by lane
        self._plans = 0
        self._since_s, self._slowdown = 0.0, 1.0

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def submit(self, model: int, count: int, within_s: float | None, *, bulk: bool) -> Asked | None:
        try:
            future = self.hand.submit(self.queues[model], *[7] * count, within_s=within_s, bulk=bulk)
        except (OverloadedError, ExpiredError):
            self.refused += count
            return None
        asked = Asked(future)
        future.add_done_callback(lambda _: setattr(asked, "ended_s", self.hand.clock()))
        self.asked.append(asked)
        return asked

    def run(self) -> None:
        """Go on until nothing happens any more."""
        begun_s = self.hand.clock()
        while self._events:
            seconds, _, action = heapq.heappop(self._events)
            self.hand.clock.now_s = begun_s + seconds
            action()
            self.hand.turn()
            for lane in sorted(self._free):
                batch = self.hand.take(lane)
                if isinstance(batch, Batch):
                    self._free.remove(lane)
                    self._run(batch, lane, seconds)

    def _run(self, batch: Batch, lane: int, now_s: float) -> None:
        took_s = self._takes_s[batch.queue][batch.images] * self.chance.uniform(0.7, 1.1)
        batch.start()
        ran = Ran(batch.priority, self.hand.clock())
        self.ran.append(ran)
        for asked in self.asked:
            if asked.left_queue_s is None and asked.future.left == 0:
                asked.left_queue_s = ran.began_s
        self._go_on(now_s)
        self._running[lane] = Running(batch, ran, took_s)
        self._plan(now_s)

    def _go_on(self, now_s: float) -> None:
        """Let what runs come as far as it comes until now."""
        for running in self._running.values():
            running.left_s -= (now_s - self._since_s) / self._slowdown
        self._since_s = now_s

    def _plan(self, now_s: float) -> None:
        """Plan the next end of a batch, unless something changes until then."""
        self._plans += 1
        self._slowdown = max(1.0, len(self._running) / self.side_by_side)
        if self._running:
            lane = min(self._running, key=lambda lane: self._running[lane].left_s)
            ends_s = now_s + self._running[lane].left_s * self._slowdown
            self.at(ends_s, functools.partial(self._end, lane, ends_s, self._plans))

    def _end(self, lane: int, now_s: float, plan: int) -> None:
        if plan == self._plans:
            self._go_on(now_s)
            ended = self._running.pop(lane)
            ended.ran.ended_s = self.hand.clock()
            ended.batch.finish()
            self._free.add(lane)
            self._plan(now_s)


def poisson(chance: random.Random, rate: float, seconds: float) -> list[float]:
    times, now_s = [], 0.0
    while (now_s := now_s + chance.expovariate(rate)) < seconds:
        times.append(now_s)
    return times


def live(
    by_hand,
    lanes: int,
    seed: int,
    interactive: float,
    bulk: float,
    within_s: float | None,
    *,
    shared: bool,
) -> None:
    chance = random.Random(seed)
    side_by_side = 1 if shared else lanes
    with by_hand(lanes=lanes, side_by_side=side_by_side) as hand:
        simulation = Simulation(hand, lanes, chance, side_by_side)
        for load, is_bulk in ((interactive, False), (bulk, True)):
            # Requests; the device does some 60.
            for second in poisson(chance, load * side_by_side * 50, 3.0):
                model, count = chance.randrange(2), chance.randint(1, 12)
                deadline_s = within_s and chance.uniform(0.5, 2) * within_s
                ask = (model, count, deadline_s)
                simulation.at(
                    second, lambda ask=ask, is_bulk=is_bulk: simulation.submit(*ask, bulk=is_bulk) and None
                )
        simulation.run()
        batches = [ran for ran in simulation.ran if ran.priority is Priority.BULK]
        for asked in simulation.asked:
            assert asked.future.done()
            submitted_s = asked.future.submitted_s
            if asked.future.priority is Priority.BULK or asked.left_queue_s is None:
                continue
            # Whoever runs beside others is held up by what begins until they are answered.
            held_up_until_s = asked.ended_s if shared and lanes > 1 else asked.left_queue_s
            began = [ran for ran in batches if submitted_s < ran.began_s < held_up_until_s]
            running = [ran for ran in batches if ran.began_s <= submitted_s < ran.ended_s]
            assert len(began) <= (0 if running else 1)


GIVEN = given(
    lanes=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    interactive=st.floats(0.1, 3),
    bulk=st.floats(0.1, 3),
    within_s=st.none() | st.floats(0.1, 2.0),
    shared=st.booleans(),
)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@GIVEN
def test_bulk_images_add_one_batch_at_the_most_to_an_interactive_wait(by_hand, **load) -> None:
    live(by_hand, **load)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, database=None)
@GIVEN
def test_many_more_loads(by_hand, **load) -> None:
    live(by_hand, **load)


@pytest.mark.parametrize(("lanes", "side_by_side"), [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("within_s", [None, 0.3])
def test_nobody_starves_however_much_comes(
    by_hand, lanes: int, side_by_side: int, within_s: float | None
) -> None:
    chance = random.Random(1)
    with by_hand(lanes=lanes, side_by_side=side_by_side) as hand:
        simulation = Simulation(hand, lanes, chance, side_by_side)
        for second in poisson(chance, side_by_side * 200, 10.0):  # three times what the device can do
            ask = (chance.randrange(2), chance.randint(1, 12), within_s)
            simulation.at(second, lambda ask=ask: simulation.submit(*ask, bulk=False) and None)
        asked: list[Asked | None] = []
        for second in range(1, 8):
            simulation.at(second, lambda: asked.append(simulation.submit(0, 4, None, bulk=True)))
        if within_s is not None:  # those who have time, among those who are in a hurry
            for second in range(1, 8):
                simulation.at(second, lambda: asked.append(simulation.submit(1, 4, None, bulk=False)))
        simulation.run()
        assert simulation.refused > 1000
        # Both full queues drain within a second, and whoever waits goes before all who come a second later.
        for one in asked:
            if one is not None:  # there was room for it
                assert one.future.result()
                assert one.wait_s < 3.0
        assert sum(one is not None for one in asked) >= 7


@pytest.mark.parametrize(("lanes", "side_by_side"), [(1, 1), (2, 2), (2, 1), (3, 1.5)])
def test_twice_the_load_with_deadlines_leaves_the_device_as_useful_as_it_can_be(
    by_hand, lanes: int, side_by_side: float
) -> None:
    chance = random.Random(2)
    # Images per second: the runs take nine tenths of the prediction.
    capacity = side_by_side * 8 / (0.024 * 0.9)
    with by_hand(lanes=lanes, side_by_side=side_by_side) as hand:
        simulation = Simulation(hand, lanes, chance, side_by_side)
        for second in poisson(chance, 2 * capacity, 10.0):
            simulation.at(second, lambda: simulation.submit(0, 1, 0.5, bulk=False) and None)
        simulation.run()
        futures = [asked.future for asked in simulation.asked]
        answered = sum(future.exception() is None for future in futures)
        assert answered >= 0.95 * capacity * 10.0
        # Refused at the door, with a time to come back, and not left to expire in the queue.
        assert len(futures) - answered < 0.01 * simulation.refused
        assert hand.unanswered("model-0").keys() <= {"late", "queue_full", "expired"}
