"""The proof lets a faithful file pass and stops every other, at the batch size where it shows."""

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from artifact import golden
from artifact.errors import GoldenError
from export import pipeline
from export.data import datasets
from export.graph import verification
from export.training import train

Exported = dict[str, pipeline.Exported]
NAMES = ("simple_cnn-digits", "two_block_cnn-digits", "lenet5-digits")
TOLERANCE = golden.TOLERANCES["fp32"][golden.CPU_PROVIDER]


def held_out(one: pipeline.Exported) -> np.ndarray:
    """The held-out images as the network takes them."""
    test = datasets.load("digits", seed=0, cache=Path()).test
    return test.fitted(one.manifest.input, one.manifest.preprocessing).images


@pytest.mark.parametrize("name", NAMES)
def test_a_faithful_file_passes_at_every_batch_size(exported: Exported, name: str) -> None:
    one = exported[name]
    images = held_out(one)
    expected = train.probabilities(one.served, images)
    run = verification.open_on_cpu(one.folder / "model.onnx")
    found = verification.parity(run, images, expected, TOLERANCE)
    assert [parity.batch_size for parity in found] == [1, 2, 3, 7, 32]
    for parity in found:
        answers = verification.in_batches(run, images, parity.batch_size)
        assert (parity.images, parity.top1_agreements) == (360, 360)
        assert parity.provider == "CPUExecutionProvider"
        assert parity.max_abs_difference == float(np.abs(answers - expected).max())
        assert 0 < parity.max_abs_difference <= TOLERANCE  # two runtimes: not a comparison with itself


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_one_changed_weight_is_refused(exported: Exported, name: str, tmp_path: Path) -> None:
    one = exported[name]
    model = onnx.load(one.folder / "model.onnx")
    last = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm").input[1]
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == last)
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[np.abs(weights).argmax()] *= 1.05
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    images = held_out(one)
    run = verification.open_on_cpu(tmp_path / "model.onnx")
    with pytest.raises(GoldenError, match=r"^batch size 1: answers differ from the reference's by up to "):
        verification.parity(run, images, train.probabilities(one.served, images), TOLERANCE)


# Pixels are row numbers, and answers a table: every difference is where the test puts it.
ROWS = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
EXPECTED = np.tile(np.array([0.4, 0.3, 0.2, 0.1], np.float32), (40, 1))


def answers(images: np.ndarray) -> np.ndarray:
    return EXPECTED[images[:, 0, 0, 0]]


def test_images_are_answered_in_order_whatever_the_batch_size() -> None:
    sizes: list[int] = []

    def numbered(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return images[:, 0, 0].astype(np.float32)

    assert verification.in_batches(numbered, ROWS, 7)[:, 0].tolist() == list(range(40))
    assert sizes == [7] * 5 + [5]


@pytest.mark.parametrize("batch_size", golden.BATCH_SIZES)
def test_the_batch_size_that_goes_wrong_is_named(batch_size: int) -> None:
    largest = min(batch_size, len(ROWS))

    def run(images: np.ndarray) -> np.ndarray:
        return answers(images) + np.float32(0.01 if len(images) == largest else 0)

    with pytest.raises(GoldenError, match=rf"^batch size {batch_size}: answers differ .* up to 0\.01 "):
        verification.parity(run, ROWS, EXPECTED, 1e-5)
    assert len(verification.parity(answers, ROWS, EXPECTED, 1e-5)) == 5


def test_a_batch_larger_than_there_are_images_is_not_claimed() -> None:
    found = verification.parity(answers, ROWS[:8], EXPECTED[:8], 1e-5)
    assert [parity.batch_size for parity in found] == [1, 2, 3, 7]


def test_a_difference_is_measured_whatever_it_comes_to() -> None:
    found = verification.difference(EXPECTED, EXPECTED[:, ::-1], batch_size=32)
    assert found.max_abs_difference == pytest.approx(0.3)
    assert (found.images, found.top1_agreements, found.batch_size) == (40, 0, 32)


def test_one_changed_label_is_refused_though_every_difference_is_allowed() -> None:
    expected = EXPECTED.copy()
    expected[13] = [0.30, 0.31, 0.29, 0.10]

    def run(images: np.ndarray) -> np.ndarray:
        got = expected[images[:, 0, 0, 0]].copy()
        got[images[:, 0, 0, 0] == 13] = [0.31, 0.30, 0.29, 0.10]
        return got

    assert golden.compare(expected, run(ROWS), 0.02).passed  # the golden comparison excuses it
    with pytest.raises(GoldenError, match=r"^batch size 1: 1 of 40 labels are not the reference's$"):
        verification.parity(run, ROWS, expected, 0.02)


def test_the_batch_sizes_of_the_proof_are_written_in_one_place() -> None:
    root = Path(verification.__file__).parent.parent.parent
    places = [
        path.relative_to(root).as_posix()
        for room in ("artifact", "bench", "cli", "export", "server")
        for path in sorted((root / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Tuple | ast.List) and ast.unparse(node).strip("()[]") == "1, 2, 3, 7, 32"
    ]
    assert places == ["artifact/golden.py"]


def test_nan_is_refused() -> None:
    with pytest.raises(GoldenError, match=r"^batch size 1: answers differ .* up to nan "):
        verification.parity(lambda images: answers(images) * np.float32("nan"), ROWS, EXPECTED, 1e-5)


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(GoldenError, match=r"^expected probabilities of shape \(40, 4\), got \(40, 3\)$"):
        verification.parity(lambda images: answers(images)[:, :3], ROWS, EXPECTED, 1e-5)
