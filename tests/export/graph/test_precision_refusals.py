"""What cannot be converted is refused in one line, and leaves nothing behind."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.graph import precision, verification
from export.graph.precision import Calibration, PrecisionError

Convert = Callable[[Path, Path], object]
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 3), np.uint8)

CONVERSIONS: dict[str, Convert] = {
    "fp16": precision.to_fp16,
    "int8": lambda source, target: precision.to_int8(source, target, IMAGES),
    "best_int8": lambda source, target: precision.best_int8(source, target, IMAGES, lambda _: 1.0),
}


def model(weights: np.ndarray | None = None, extra: tuple[NodeProto, ...] = ()) -> onnx.ModelProto:
    """A graph with nothing but a dense layer: uint8 ``[N, 4, 6, 3]`` to float32 ``[N, 5]``."""
    values = np.random.default_rng(1).normal(0, 0.1, (5, 72)) if weights is None else weights
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["logits"], transB=1),
            *extra,
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "dense",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 6, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 5])],
        [
            numpy_helper.from_array(np.float32(1 / 255), "scale"),
            numpy_helper.from_array(values.astype(np.float32), "weights"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "converted.onnx"


def run(path: Path, images: np.ndarray) -> np.ndarray:
    return verification.open_on_cpu(path)(images)


def refusal(convert: Convert, source: Path, target: Path) -> str:
    with pytest.raises(PrecisionError) as raised:
        convert(source, target)
    assert list(target.parent.iterdir()) == []
    message = str(raised.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_graph_without_convolutions_is_converted(name: str, source: Path, target: Path) -> None:
    CONVERSIONS[name](source, target)
    assert list(target.parent.iterdir()) == [target]
    for count in (1, 2, 9):
        np.testing.assert_allclose(
            run(target, IMAGES[:count]), run(source, IMAGES[:count]), rtol=0, atol=2e-2
        )


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("cut", [0, 1, 40, 700, -1])
def test_a_damaged_file_is_refused(name: str, cut: int, source: Path, target: Path) -> None:
    source.write_bytes(source.read_bytes()[:cut])
    assert refusal(CONVERSIONS[name], source, target).startswith("model.onnx is not an artifact's graph: ")


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_missing_file_is_refused(name: str, target: Path) -> None:
    assert "No such file" in refusal(CONVERSIONS[name], target.with_name("none.onnx"), target)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_graph_with_another_signature_is_refused(name: str, source: Path, target: Path) -> None:
    other = model()
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(other, source)
    assert "the graph's signature is" in refusal(CONVERSIONS[name], source, target)


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused(name: str, value: float, source: Path, target: Path) -> None:
    weights = np.zeros((5, 72))
    weights[3, 7] = value
    onnx.save(model(weights), source)
    assert (
        refusal(CONVERSIONS[name], source, target) == "model.onnx holds a weight that is no number: weights"
    )


def test_a_weight_beyond_half_precision_is_refused(source: Path, target: Path) -> None:
    weights = np.zeros((5, 72))
    weights[3, 7] = -65504
    onnx.save(model(weights), source)
    precision.to_fp16(source, target)  # the largest that there is
    target.unlink()
    weights[3, 7] = -65521
    onnx.save(model(weights), source)
    assert refusal(precision.to_fp16, source, target) == (
        "model.onnx does not fit half precision: weights holds -65521, the largest is 65504"
    )


def test_an_operator_that_does_not_know_half_precision_is_refused(source: Path, target: Path) -> None:
    kept = helper.make_node("Bernoulli", ["logits"], ["drawn"], dtype=TensorProto.FLOAT)
    mixed = helper.make_node("Max", ["logits", "drawn"], ["unused"])
    tail = helper.make_node("Sum", ["unused", "logits"], ["sum"])
    other = model(extra=(kept, mixed, tail))
    other.graph.node[-1].input[0] = "sum"
    onnx.save(other, source)
    assert refusal(precision.to_fp16, source, target).startswith(
        "after the conversion, the graph is not valid ONNX: "
    )


@pytest.mark.parametrize(
    "images",
    [IMAGES[:0], IMAGES[..., :1], IMAGES.astype(np.float32), IMAGES[0]],
    ids=["none", "grey", "float", "one"],
)
def test_calibration_without_images_for_the_network_is_refused(
    images: np.ndarray, source: Path, target: Path
) -> None:
    message = refusal(lambda *paths: precision.to_int8(*paths, images), source, target)
    assert message.startswith("calibration wants uint8 images (4, 6, 3), not ")


@pytest.mark.parametrize("method", Calibration)
def test_quantisation_says_nothing_and_leaves_the_loggers_alone(
    method: Calibration, source: Path, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (list(logging.root.handlers), logging.root.level, logging.root.manager.disable)
    precision.to_int8(source, target, IMAGES, method)
    assert capfd.readouterr() == ("", "")
    assert (list(logging.root.handlers), logging.root.level, logging.root.manager.disable) == before


def test_the_same_images_give_the_same_file(source: Path, target: Path) -> None:
    for convert in CONVERSIONS.values():
        convert(source, target)
        first = target.read_bytes()
        convert(source, target)
        assert target.read_bytes() == first


def test_of_many_images_so_many_at_even_distances_calibrate(source: Path, target: Path) -> None:
    images = np.zeros((1021, 4, 6, 3), np.uint8)
    images[::4] = 200  # the 256 that are looked at
    precision.to_int8(source, target, images)
    few = target.read_bytes()
    precision.to_int8(source, target, np.full((1, 4, 6, 3), 200, np.uint8))
    assert target.read_bytes() == few
    images[1] = 255
    precision.to_int8(source, target, images)
    assert target.read_bytes() == few  # not looked at
    images[1020] = 255
    precision.to_int8(source, target, images)
    assert target.read_bytes() != few


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((9, 1, 2, 3), Calibration.ENTROPY),
        ((9, 1, 2, 2), Calibration.PERCENTILE),
        ((9, 2, 2, 2), Calibration.MINMAX),
        ((2, 1, 2), Calibration.PERCENTILE),  # as good as the source: no more is tried
        ((2, 3), Calibration.MINMAX),
    ],
)
def test_the_best_calibration_is_kept_and_the_cheapest_among_equals(
    scores: tuple[float, ...], best: Calibration, source: Path, target: Path
) -> None:
    left, seen = list(scores), []

    def judge(path: Path) -> float:
        seen.append(path.read_bytes())
        return left.pop(0)

    assert precision.best_int8(source, target, IMAGES, judge) is best
    assert left == []
    assert seen[0] == source.read_bytes()
    assert target.read_bytes() == seen[1 + list(Calibration).index(best)]
    assert list(target.parent.iterdir()) == [target]


def test_a_judge_that_fails_leaves_nothing_behind(source: Path, target: Path) -> None:
    def judge(path: Path) -> float:
        raise RuntimeError("no opinion")

    with pytest.raises(RuntimeError, match=r"^no opinion$"):
        precision.best_int8(source, target, IMAGES, judge)
    assert list(target.parent.iterdir()) == []
