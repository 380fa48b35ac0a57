"""Batches are timed by turns, after a warm-up, within the budget."""

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.publishing import latency


class Machine:
    """A clock that only work moves, and a record of the work."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.done: list[int] = []

    def clock(self) -> float:
        return self.now_s

    def work(self, key: int, *seconds: float) -> Callable[[], None]:
        """Work that takes the first time the first of ``seconds``, and so on; then the last again."""
        left = list(seconds)

        def run() -> None:
            self.done.append(key)
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_work_is_timed_by_turns_after_a_warm_up_that_does_not_count(machine: Machine) -> None:
    works = {1: machine.work(1, 5, 1, 2, 3), 8: machine.work(8, 7, 4)}
    found = latency.interleaved(works, 26, machine.clock)
    assert machine.done == [1, 8, 1, 8, 1, 8, 1]
    assert found == {1: ([1, 2, 3], 3), 8: ([4, 4], 2)}


def test_work_too_long_for_what_is_left_is_passed_over_and_the_rest_goes_on(machine: Machine) -> None:
    works = {1: machine.work(1, 1), 32: machine.work(32, 90)}
    found = latency.interleaved(works, 100, machine.clock)
    assert found == {1: ([1] * 9, 9), 32: ([90], 0)}
    assert machine.now_s == 100


def test_without_any_budget_everything_runs_once(machine: Machine) -> None:
    works = {1: machine.work(1, 2), 32: machine.work(32, 90)}
    assert latency.interleaved(works, 0, machine.clock) == {1: ([2], 0), 32: ([90], 0)}
    assert machine.done == [1, 32]


def test_fast_work_is_not_repeated_forever(machine: Machine) -> None:
    found = latency.interleaved({1: machine.work(1, 0.001)}, 1e9, machine.clock)
    assert found[1][1] == len(found[1][0]) == 30


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that takes uint8 ``[N, 4, 6, 3]`` and only casts."""
    shape = ["N", 4, 6, 3]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["probabilities"], to=TensorProto.FLOAT)],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
    )
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_graph_is_measured_at_every_batch_size_in_the_order_asked(tiny: Path) -> None:
    found = latency.measure(tiny, (4, 6, 3), (8, 1, 32), threads=1, budget_s=60)
    assert [(one.provider, one.batch_size, one.runs) for one in found] == [
        ("CPUExecutionProvider", 8, 30), ("CPUExecutionProvider", 1, 30), ("CPUExecutionProvider", 32, 30),
    ]  # fmt: skip
    assert all(one.median_s > 0 for one in found)


def test_a_latency_is_the_median_of_its_runs(tiny: Path) -> None:
    # Read first for the budget, twice for the warm-up, and then thrice a run: is there time, begin, end.
    readings = (float(number**3) for number in itertools.count())
    [found] = latency.measure(tiny, (4, 6, 3), (2,), threads=1, budget_s=1e9, clock=lambda: next(readings))
    runs_s = [(3 * run + 5) ** 3 - (3 * run + 4) ** 3 for run in range(30)]
    assert (found.median_s, found.runs) == (statistics.median(runs_s), 30)
    assert statistics.median(runs_s) != pytest.approx(statistics.fmean(runs_s), rel=0.1)
