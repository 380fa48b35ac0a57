"""A network proves itself at every size, and its times are taken until they are stable."""

import threading
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest

from artifact.errors import GoldenError
from artifact.golden import Golden
from server.repository import loading

EXPECTED = Golden(np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1), np.float32([[0, 1], [0.5, 0.5], [1, 0]]))


class Timed:
    """A network that answers right, and takes as long as it is told, on a clock of its own.

    Args:
        seconds_per_image: of every run; the last goes on for ever.
        wrong: the run, from 0, that is answered wrong.
    """

    def __init__(self, *seconds_per_image: float, wrong: int | None = None) -> None:
        self.now_s = 0.0
        self.sizes: list[int] = []
        self._seconds = seconds_per_image
        self._wrong = wrong

    def clock(self) -> float:
        return self.now_s

    def infer(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        run = len(self.sizes)
        self.sizes.append(len(rows))
        self.now_s += len(rows) * self._seconds[min(run, len(self._seconds) - 1)]
        answers = EXPECTED.probabilities[[int(row.item()) for row in rows]]
        return 1 - answers if run == self._wrong else answers

    def prove(self, *sizes: int, budget_s: float = 0.0) -> loading.Proof:
        return loading.prove(self, EXPECTED, sizes, 1e-5, budget_s, self.clock)


def test_every_size_runs_once_at_least_the_largest_first() -> None:
    network = Timed(0.5)
    proof = network.prove(1, 4, 2, 4)
    assert network.sizes == [4, 2, 1]
    assert proof.latency_s == {4: 2.0, 2: 1.0, 1: 0.5}
    assert proof.comparison.max_abs_difference == 0


def test_a_stable_time_needs_few_runs() -> None:
    network = Timed(0.001)
    assert network.prove(1, 2, budget_s=10).latency_s == pytest.approx({2: 0.002, 1: 0.001})
    assert network.sizes == [2] * 6 + [1] * 6


def test_first_runs_that_are_slow_do_not_count() -> None:
    network = Timed(1.0, 0.1, 0.1, 0.01)
    assert network.prove(1, budget_s=10).latency_s == pytest.approx({1: 0.01})


def test_a_time_that_is_never_stable_ends_with_the_runs() -> None:
    network = Timed(*(0.001 * 1.2**run for run in range(100)))
    network.prove(1, budget_s=1000)
    assert len(network.sizes) == 20


def test_the_budget_is_shared_among_the_sizes() -> None:
    network = Timed(0.1)
    network.prove(1, 8, budget_s=0.3)
    assert network.sizes == [8, 1, 1]


def test_the_shortest_of_the_last_runs_counts_because_disturbances_only_add() -> None:
    network = Timed(0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.3, 0.1, 0.3)
    assert network.prove(1, budget_s=1.3).latency_s == pytest.approx({1: 0.1})


@pytest.mark.parametrize("run", [0, 3, 7])
def test_every_run_is_compared(run: int) -> None:
    with pytest.raises(GoldenError, match=f"batch size {2 if run < 6 else 1}"):
        Timed(0.001, wrong=run).prove(1, 2, budget_s=10)


class Together:
    """A network that goes on only when so many run at the same time; one may be answered wrong."""

    def __init__(self, count: int, *, wrong: bool) -> None:
        self.together = threading.Barrier(count)
        self.sizes: list[int] = []
        self._wrong = wrong

    def infer(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        self.sizes.append(len(rows))
        turn = self.together.wait(60)
        answers = EXPECTED.probabilities[[int(row.item()) for row in rows]]
        return 1 - answers if self._wrong and turn == 0 else answers


@pytest.mark.parametrize("wrong", [False, True])
def test_as_many_batches_as_there_are_lanes_run_at_the_same_time_and_are_compared(wrong: bool) -> None:
    network = Together(3, wrong=wrong)
    complaint = pytest.raises(GoldenError, match="3 batches of 4 at the same time")
    with complaint if wrong else nullcontext():
        loading.prove_at_once(network, EXPECTED, 4, 1e-5, lanes=3)
    assert network.sizes == [4] * 3


def test_no_size_proves_nothing() -> None:
    with pytest.raises(ValueError, match="no batch size to prove"):
        Timed(0.1).prove()
