"""How a file was written is no reason to refuse it: order, constants, free axes, other outputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import precision, verification
from export.onnx_import.conversion import ImportRequest
from tests.export.onnx_import.onnx_files import (
    K,
    assert_answers_as_the_file,
    constant,
    convolutional,
    ours,
    outcome,
    refused,
    saved,
    signature,
    some_images,
    theirs,
    wrapped,
)
from tests.operators import operators

BACKEND = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))


def test_nodes_in_another_order_are_sorted(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    path = saved(tmp_path / "theirs.onnx", nodes[::-1], tensors)
    found, target = wrapped(path)
    assert_answers_as_the_file(target, path, some_images(4, 8, 8, 3))
    assert "nodes sorted; in the file, some came before what they take" in found.changes


def test_casts_that_a_float16_converter_puts_last_are_sorted(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    for node in nodes:
        node.input[:] = [{"x": "x16"}.get(name, name) for name in node.input]
        node.output[:] = [{"y": "y16"}.get(name, name) for name in node.output]
    tensors = [
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        for tensor in tensors
    ]
    casts = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
    ]
    path = saved(tmp_path / "theirs.onnx", [*nodes, *casts], tensors)
    _, target = wrapped(path)
    assert_answers_as_the_file(target, path, some_images(4, 8, 8, 3))


def test_a_circle_of_nodes_is_refused(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[0].input[0] = "r"
    refused(saved(tmp_path / "theirs.onnx", nodes, tensors), r"^its nodes depend on each other in a circle$")


@pytest.mark.parametrize("side", [-1, 0, None, "batch"])
def test_a_free_batch_is_free_however_it_is_written(side: int | str | None, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(), sides=(side, 3, 8, 8))
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [side, K]))
    path.write_bytes(model.SerializeToString())
    _, target = wrapped(path)
    plain = saved(tmp_path / "plain.onnx", *convolutional())
    plain_model = onnx.load(plain)
    del plain_model.graph.initializer[:]
    plain_model.graph.initializer.extend(model.graph.initializer)
    plain.write_bytes(plain_model.SerializeToString())
    assert_answers_as_the_file(target, plain, some_images(5, 8, 8, 3))
    assert signature(target) == ours()


@pytest.mark.parametrize("side", [-1, 0, None, "h"])
def test_a_free_size_is_free_however_it_is_written(side: int | str | None, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(), sides=(side, 3, side, side))
    _, target = wrapped(path, ImportRequest(height=12, width=9))
    assert signature(target) == ours(12, 9)
    target.unlink()
    refused(path, r"^it leaves its height and width free: say with --input HxW ")


def test_weights_in_nodes_are_weights(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    before = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    found, target = wrapped(saved(tmp_path / "theirs.onnx", [*before, *nodes], []))
    plain = saved(tmp_path / "plain.onnx", nodes, tensors)
    assert_answers_as_the_file(target, plain, some_images(4, 8, 8, 3))
    assert found.parameters == 7 * 3 * 9 + K * 7 + K
    assert "Constant" not in operators(target)


def test_weights_that_a_node_fills_are_weights(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[-1].input[2] = "filled"
    fill = helper.make_node("ConstantOfShape", ["size"], ["filled"], value=constant("", 0.25))
    size = helper.make_node("Constant", [], ["size"], value_ints=[K])
    path = saved(tmp_path / "theirs.onnx", [size, fill, *nodes], tensors[:2])
    found, target = wrapped(path)
    assert_answers_as_the_file(target, path, some_images(4, 8, 8, 3))
    assert found.parameters == 7 * 3 * 9 + K * 7 + K
    assert not {"Constant", "ConstantOfShape"} & operators(target).keys()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("value_float", 0.5), ("value_floats", [0.5] * K), ("value_int", 2), ("value_ints", [2] * K)],
)
def test_numbers_of_a_node_become_a_weight(attribute: str, value: object, tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[-1].output[0] = "s"
    nodes += [
        helper.make_node("Constant", [], ["number"], **{attribute: value}),
        helper.make_node("Cast", ["number"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "factor"], ["y"]),
    ]
    path = saved(tmp_path / "theirs.onnx", nodes, tensors)
    _, target = wrapped(path)
    assert_answers_as_the_file(target, path, some_images(4, 8, 8, 3))
    assert "Constant" not in operators(target)


def test_a_constant_of_another_size_than_it_says_is_refused(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    tensors[2].dims[0] = K + 1
    weights = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    refused(saved(tmp_path / "theirs.onnx", [*weights, *nodes], []), r"^ONNX Runtime cannot load it: ")


def test_a_graph_with_nodes_without_inputs_is_quantised(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    _, target = wrapped(saved(tmp_path / "theirs.onnx", nodes, tensors))
    model = onnx.load(target)
    moved = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], [moved.name], value=moved))
    target.write_bytes(model.SerializeToString())
    images = some_images(64, 8, 8, 3)
    precision.to_int8(target, tmp_path / "int8.onnx", images)
    answers, exact = (verification.open_on_cpu(path)(images) for path in (tmp_path / "int8.onnx", target))
    assert np.abs(answers - exact).max() < 0.02


def test_what_the_scores_do_not_need_is_left_out_before_it_is_judged(tmp_path: Path) -> None:
    nodes, tensors = convolutional(last="Softmax")
    nodes += [
        helper.make_node("ArgMax", ["y"], ["label"], axis=1),
        helper.make_node("ZipMap", ["y"], ["map"], domain="ai.onnx.ml", classlabels_int64s=list(range(K))),
    ]
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, domains=("ai.onnx.ml",))
    model = onnx.load(path)
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_value_info("map", maps),
        ]
    )
    model.graph.input.append(helper.make_tensor_value_info("is_training", TensorProto.BOOL, []))
    path.write_bytes(model.SerializeToString())
    images = some_images(4, 8, 8, 3)
    expected = theirs_alone(path, images)
    for request in (ImportRequest(output="y"), ImportRequest()):  # it is the only one of scores
        found, target = wrapped(path, request)
        np.testing.assert_allclose(verification.open_on_cpu(target)(images), expected, rtol=0, atol=1e-6)
        assert "without the file's other outputs: label, map" in found.changes
        assert "without the file's inputs that its scores do not need: is_training" in found.changes
        assert [entry.domain for entry in onnx.load(target).opset_import] == [""]
        target.unlink()
    refused(path, r"^its output label is tensor\(int64\), not float scores$", output="label")
    refused(path, r"^ZipMap of ai\.onnx\.ml is no standard operator$", output="map")


def theirs_alone(path: Path, images: np.ndarray) -> np.ndarray:
    """The file's scores, of a copy that has no other output."""
    model = onnx.load(path)
    del model.graph.node[-2:], model.graph.output[1:], model.graph.input[1:]
    alone = path.with_name("alone.onnx")
    alone.write_bytes(model.SerializeToString())
    return theirs(alone, images, ImportRequest())


def test_a_file_without_weights_is_refused_before_any_proof(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    refused(saved(tmp_path / "theirs.onnx", nodes, []), r"^it holds no weights; a classifier has some$")


@pytest.mark.skipif(not BACKEND, reason="this onnx comes without its test models")
@pytest.mark.slow  # 20 s
def test_every_test_model_of_onnx_is_imported_or_refused_in_one_line(tmp_path: Path) -> None:
    imported = set()
    for path in BACKEND:
        target = tmp_path / "model.onnx"
        target.unlink(missing_ok=True)
        if outcome(path, target, ImportRequest(layout="nchw")) == "imported":
            imported.add(path.stem)
    assert imported >= {path.stem for path in BACKEND if path.parent.name == "light"}  # the classifiers
