"""The bare loop runs the real file, and its figures add up."""

from pathlib import Path

import numpy as np
import pytest

from artifact.golden import Golden
from bench.measured import bare
from bench.measured.bare import Arrangement, Graph

NAME = "simple_cnn-digits"


@pytest.fixture
def graph(repository: Path, digits: Golden) -> Graph:
    return Graph(repository / NAME / "1" / "model.onnx", "cpu", digits.images)


def test_its_answers_are_those_of_the_artifact(graph: Graph, digits: Golden) -> None:
    assert bare.answers(graph) == pytest.approx(digits.probabilities, abs=1e-5)


@pytest.mark.parametrize("callers", [1, 2])
def test_its_speed_is_its_images_over_its_time(graph: Graph, callers: int) -> None:
    timing = bare.measure(graph, Arrangement(callers, 1, 4), 0.05)
    assert len(timing.run_s) >= 2 * callers
    # Every caller runs one batch after the other, for about as long as the others.
    assert timing.images_per_s == pytest.approx(4 * callers / timing.run_s.mean(), rel=0.5)
    if callers == 1:
        assert timing.images_per_s == pytest.approx(4 / timing.run_s.mean())


def test_however_little_time_there_is_every_size_runs(graph: Graph) -> None:
    curve_s = bare.curve_s(graph, callers=1, threads=1, sizes=(1, 2, 32), seconds=0)
    assert list(curve_s) == [1, 2, 32]
    assert all(seconds > 0 for seconds in curve_s.values())


def test_more_images_than_there_are_pictures_run_too(graph: Graph) -> None:
    few = Graph(graph.path, "cpu", graph.images[:3])
    assert bare.measure(few, Arrangement(1, 1, 32), 0).images_per_s > 0


def test_the_best_of_the_candidates_is_found(graph: Graph) -> None:
    candidates = bare.arrangements("cpu", cores=2, sizes=(1, 8))
    assert set(candidates) == {
        *(Arrangement(1, 2, size) for size in (1, 8)),
        *(Arrangement(2, 1, size) for size in (1, 8)),
    }
    assert bare.search(graph, candidates, 0.01) in candidates


def test_one_core_has_one_way_and_a_cuda_device_one_caller() -> None:
    assert bare.arrangements("cpu", cores=1, sizes=(1,)) == [Arrangement(1, 1, 1)]
    assert bare.arrangements("cuda:0", cores=16, sizes=(1,)) == [Arrangement(1, 1, 1)]


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no graph")
    with pytest.raises(Exception, match=r"model\.onnx"):
        bare.answers(Graph(tmp_path / "model.onnx", "cpu", np.zeros((1, 8, 8, 1), np.uint8)))
