"""Multiply-accumulates, against counts made by hand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export import pipeline
from export.graph import macs

FLOAT = onnx.TensorProto.FLOAT


def write(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], **weights: np.ndarray) -> Path:
    ends = [
        helper.make_tensor_value_info(name, FLOAT, sides) for name, sides in (("in", shape), ("out", None))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        # C1 28x28x6 numbers of 25 products, C3 10x10x16 of 150, C5 120 of 400, F6 84 of 120, output 10 of 84.
        ("lenet5-digits", 117_600 + 240_000 + 48_000 + 10_080 + 840),
        # 6x6x64 of 9, 50 of 576, 10 of 50.
        ("simple_cnn-digits", 20_736 + 28_800 + 500),
        # 28x28x4 of 9, 14x14x4 of 36, 10 of 196.
        ("two_block_cnn-digits", 28_224 + 28_224 + 1_960),
    ],
)
def test_an_exported_network_costs_what_its_layers_say(
    exported: dict[str, pipeline.Exported], name: str, by_hand: int
) -> None:
    assert macs.count(exported[name].folder / "model.onnx") == by_hand


@pytest.mark.parametrize(
    ("attributes", "weight", "by_hand"),
    [
        ({}, zeros(8, 6, 3, 5), 8 * 7 * 8 * (6 * 3 * 5)),  # 9x12 gives 7x8
        ({"strides": [2, 3], "pads": [1, 2, 1, 2]}, zeros(8, 6, 3, 5), 8 * 5 * 4 * (6 * 3 * 5)),
        ({"group": 3}, zeros(9, 2, 1, 1), 9 * 9 * 12 * 2),
        ({"dilations": [2, 2]}, zeros(4, 6, 3, 3), 4 * 5 * 8 * (6 * 9)),
    ],
)
def test_strides_groups_and_dilations_of_a_convolution_count(
    attributes: dict[str, object], weight: np.ndarray, by_hand: int, tmp_path: Path
) -> None:
    conv = helper.make_node("Conv", ["in", "weight", "bias"], ["out"], **attributes)
    path = write(tmp_path / "m.onnx", [conv], ["N", 6, 9, 12], weight=weight, bias=zeros(len(weight)))
    assert macs.count(path) == by_hand


@pytest.mark.parametrize("batch", ["N", 1])
def test_products_of_matrices_count_for_one_image(batch: str | int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["in", "a"], ["x"]),  # [N, 5, 7] @ [7, 300]: 5 * 300 numbers of 7
        helper.make_node("Reshape", ["x", "flat"], ["y"]),  # the shape is a weight that must be read
        helper.make_node("Gemm", ["y", "b"], ["z"], transB=1),  # 4 of 1500
        helper.make_node("Gemm", ["z", "c"], ["out"], transA=1),  # [1, 4] turned, @ [1, 3]: 12 of 1
    ]
    weights = {"a": zeros(7, 300), "flat": np.array([-1, 1500]), "b": zeros(4, 1500), "c": zeros(1, 3)}
    path = write(tmp_path / "m.onnx", nodes, [batch, 5, 7], **weights)
    assert macs.count(path) == 10_500 + 6_000 + 12


def test_other_operators_cost_nothing(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["in"], ["x"]), helper.make_node("Mul", ["x", "x"], ["out"])]
    assert macs.count(write(tmp_path / "m.onnx", nodes, ["N", 3])) == 0


def test_what_cannot_be_counted_is_refused_by_name(tmp_path: Path) -> None:
    back = helper.make_node("ConvTranspose", ["in", "weight"], ["out"])
    path = write(tmp_path / "m.onnx", [back], ["N", 6, 9, 12], weight=zeros(6, 2, 3, 3))
    with pytest.raises(ValueError, match=r"^the multiply-accumulates of ConvTranspose are not counted$"):
        macs.count(path)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["in", "weight"], ["out"])
    path = write(tmp_path / "m.onnx", [product], ["N", 6], weight=zeros(5, 2))
    with pytest.raises(ValueError, match=r"^the shapes do not fit: "):
        macs.count(path)


def test_a_value_of_an_unknown_number_of_axes_is_refused_in_words(tmp_path: Path) -> None:
    """As tf2onnx writes a flattening: the shape is computed, and inference cannot tell even its length."""
    nodes = [
        helper.make_node("Shape", ["in"], ["sides"]),
        helper.make_node("NonZero", ["sides"], ["places"]),
        helper.make_node("Squeeze", ["places"], ["target"]),
        helper.make_node("Reshape", ["in", "target"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["out"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, ["N", 6], weight=zeros(6, 5))
    with pytest.raises(ValueError, match=r"^the shape of 'flat' in MatMul .*is unknown$"):
        macs.count(path)
