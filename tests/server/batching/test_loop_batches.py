"""A batch that takes less than handing it over to a lane is run by the event loop, never for long."""

import threading
from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from artifact.pictures import Pixels
from server.batching.batches import Batch
from server.errors import ExpiredError, InferenceError
from server.inference import Probabilities
from server.runtime.network import OnnxNetwork
from tests.server.by_hand import Echo, carried

MAX_S = 0.0005
CURVE = {1: 0.0001, 2: 0.00015, 4: 0.0003, 8: 0.00055}
HEAVY = {1: 0.01, 8: 0.02}


class Noted(Echo):
    """Notes the images of every batch, and the thread that runs it; takes so long on a clock."""

    def __init__(self, clock=None, seconds: float = 0.0, on_batch=lambda: None) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.failures: deque[BaseException] = deque()
        self._clock, self._seconds, self._on_batch = clock, seconds, on_batch

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        self.batches.append([int(row.flat[0]) for row in rows])
        self.threads.add(threading.get_ident())
        self._on_batch()
        if self._clock is not None:
            self._clock.now_s += self._seconds
        if self.failures:
            raise self.failures.popleft()
        return super().infer(rows)


def test_what_came_in_one_turn_is_one_batch_of_the_event_loop(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        answers = [hand.submit(queue, value) for value in (1, 2, 3)]
        assert network.batches == []
        hand.turn()
        assert network.batches == [[1, 2, 3]]
        assert network.threads == {threading.get_ident()}
        assert [answer.result().batch_size for answer in answers] == [3, 3, 3]
        assert [round(255 * answer.result().probabilities[0, 0]) for answer in answers] == [1, 2, 3]
        assert hand.take() is None


def test_what_would_hold_the_event_loop_for_longer_than_it_may_goes_to_the_lanes_whole(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        hand.submit(queue, *range(8))
        hand.turn()
        assert network.batches == []
        assert hand.run_next(0.001) == list(range(8))
        hand.submit(queue, *range(4))
        hand.turn()
        assert network.batches[1:] == [[0, 1, 2, 3]]


def test_more_than_the_largest_batch_goes_to_the_lanes_however_fast_it_is(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=60.0)
        hand.submit(queue, *range(9))
        hand.turn()
        assert network.batches == []
        assert hand.run_next(0.001) == list(range(8))


def test_between_two_batches_of_one_turn_the_event_loop_does_other_things(by_hand) -> None:
    with by_hand() as hand:
        order: list[str] = []
        queues = [
            hand.add(name, CURVE, network=Noted(on_batch=partial(order.append, name)), max_loop_s=MAX_S)
            for name in ("first", "second")
        ]
        for queue in queues:
            hand.submit(queue, 1)
        hand.loop.call_soon(order.append, "other")
        for _ in range(2):
            hand.turn()
        assert order == ["first", "other", "second"]


def test_a_network_that_is_not_tiny_is_left_to_the_lanes(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()))
        hand.submit(queue, 1)
        hand.turn()
        assert network.batches == []
        assert hand.run_next(0.001) == [1]


@pytest.mark.parametrize(("max_loop_s", "options"), [(0.0, {}), (MAX_S, {"max_queue_delay_s": 1.0})])
def test_nothing_runs_on_the_event_loop_where_the_settings_do_not_want_it(
    by_hand, max_loop_s: float, options: dict[str, float]
) -> None:
    with by_hand(**options) as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=max_loop_s)
        hand.submit(queue, 1, 2)
        hand.turn()
        assert network.batches == []
        hand.clock.now_s += 1.0
        assert hand.run_next(0.001) == [1, 2]


def test_a_tiny_network_that_has_become_slow_goes_to_the_lanes_and_is_tried_again_later(by_hand) -> None:
    with by_hand() as hand:
        network = Noted(hand.clock, 10 * MAX_S)
        queue = hand.add("m", CURVE, network=network, max_loop_s=MAX_S)
        batch = None
        while not isinstance(batch, Batch):
            assert len(network.batches) < 30
            hand.submit(queue, 1)
            hand.turn()
            batch = hand.take()
        assert network.batches
        assert carried(batch) == [1]
        hand.run(batch, 10 * MAX_S)  # what lanes take, and wait for, says nothing of the event loop
        network.batches.clear()
        hand.clock.now_s += 60.0
        hand.submit(queue, 2)
        hand.turn()
        assert network.batches == [[2]]


def test_a_heavy_model_beside_a_tiny_one_goes_to_the_lanes_in_the_same_turn(by_hand) -> None:
    with by_hand() as hand:
        tiny = hand.add("tiny", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        heavy = hand.add("heavy", HEAVY)
        hand.submit(heavy, 9)
        hand.submit(tiny, 1)
        hand.turn()
        assert network.batches == [[1]]
        assert hand.run_next(0.01) == [9]


def test_bulk_images_of_a_tiny_network_do_not_overtake_interactive_ones_and_are_not_forgotten(
    by_hand,
) -> None:
    with by_hand() as hand:
        tiny = hand.add("tiny", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        heavy = hand.add("heavy", HEAVY)
        hand.submit(heavy, 9)
        bulk = hand.submit(tiny, 1, bulk=True)
        hand.turn()
        assert network.batches == []
        assert hand.run_next(0.01) == [9]
        assert hand.run_next(0.001) == [1]
        assert bulk.done()


def test_what_is_late_or_cancelled_by_the_end_of_the_turn_does_not_run(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        late, gone = hand.submit(queue, 1, within_s=0.1), hand.submit(queue, 2)
        gone.cancel()
        hand.clock.now_s += 0.2
        hand.turn()
        assert isinstance(late.exception(), ExpiredError)
        assert network.batches == []
        assert hand.unanswered("m") == {"expired": 1, "cancelled": 1}


@pytest.mark.parametrize("failure", [ValueError("no"), MemoryError()])
def test_a_batch_that_fails_on_the_event_loop_fails_alone(by_hand, failure) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        network.failures.append(failure)
        failed = hand.submit(queue, 1)
        hand.turn()
        assert isinstance(failed.exception(), InferenceError)
        assert [model for model, _ in hand.logged] == ["m"]
        answered = hand.submit(queue, 2)
        hand.turn()
        assert answered.result().batch_size == 1


def test_what_ends_the_event_loop_itself_fails_the_batch_and_goes_on_to_the_loop(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, network=(network := Noted()), max_loop_s=MAX_S)
        network.failures.append(SystemExit(3))
        failed = hand.submit(queue, 1)
        with pytest.raises(SystemExit):
            hand.turn()
        hand.turn()
        assert isinstance(failed.exception(), InferenceError)
        assert not failed.is_in_batch


@pytest.mark.parametrize(("runs", "where"), [(0, "loop"), (100, "lane-0")])
def test_a_server_decides_by_measuring(start_server, runs: int, where: str) -> None:
    """Answers that are known already are far faster than any hand-over; a hundred runs are far slower."""
    threads: list[str] = []

    class Measured(OnnxNetwork):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            self._known: dict[bytes, np.ndarray] = {}

        def infer(self, rows: Sequence[Pixels]) -> Probabilities:
            threads.append(threading.current_thread().name)
            keys = [row.tobytes() for row in rows]
            for key, row in zip(keys, rows, strict=True):
                for _ in range(runs or key not in self._known):
                    self._known[key] = super().infer([row])[0]
            return np.stack([self._known[key] for key in keys])

    running = start_server(open_network=Measured, max_loop_s=MAX_S)
    with running.client() as client:
        threads.clear()
        for _ in range(3):
            client.classify("lenet5-digits", [np.zeros((32, 32, 1), np.uint8)])
    assert len(threads) == 3
    assert {name if name.startswith("lane") else "loop" for name in threads} == {where}
