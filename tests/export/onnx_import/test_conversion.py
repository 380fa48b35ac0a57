"""A classifier that somebody else exported answers as before, in our signature."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.graph import tracing, verification
from export.onnx_import.conversion import ImportRequest
from tests.export.onnx_import.onnx_files import (
    IMAGENET,
    K,
    assert_answers_as_the_file,
    constant,
    convolutional,
    ours,
    refused,
    saved,
    signature,
    softmax,
    some_images,
    theirs,
    weights,
    wrapped,
)
from tests.operators import operators
from zoo import catalog


def test_scores_of_a_free_batch_become_probabilities(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    request = ImportRequest(**IMAGENET)
    found, target = wrapped(path, request)
    images = some_images(7, 8, 8, 3)
    expected = softmax(theirs(path, images, request))
    answers = verification.open_on_cpu(target)(images)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.original(images), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the pictures differ
    assert signature(target) == ours()
    assert operators(target) == Counter(
        ["Transpose", "Cast", "Mul", "Add", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"]
    )
    assert found.labels == ("0", "1", "2", "3", "4")
    assert len(found.labels) == K
    assert found.parameters == 7 * 3 * 9 + K * 7 + K
    assert (found.input_spec.mean, found.input_spec.std) == (IMAGENET["mean"], IMAGENET["std"])
    assert found.changes == (
        "takes uint8 [N, H, W, C] and normalises inside the graph; the file took float32 [N, C, H, W]",
        "a softmax makes probabilities of the file's scores",
    )


@pytest.mark.parametrize("opset", [13, 17, 20, 22])
def test_the_opset_is_kept_and_the_ir_is_one_that_servers_read(opset: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(), opset=opset, ir_version=11)
    _, target = wrapped(path)
    model = onnx.load(target)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == 10


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_old_opset_is_converted(opset: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(last="Softmax"), opset=opset, ir_version=4)
    found, target = wrapped(path)
    images = some_images(3, 8, 8, 3)
    np.testing.assert_allclose(
        verification.open_on_cpu(target)(images), theirs(path, images, ImportRequest()), rtol=0, atol=1e-6
    )
    assert onnx.load(target).opset_import[0].version == 20
    assert f"opset 20; the file had {opset}" in found.changes


def test_channels_last_are_taken_as_they_come(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["f"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
    ]
    path = saved(tmp_path / "theirs.onnx", nodes, [weights("v", K, 3)], sides=(None, 8, 10, 3))
    request = ImportRequest(std=(1 / 255,) * 3)
    found, target = wrapped(path, request)
    images = some_images(4, 8, 10, 3)
    np.testing.assert_allclose(
        verification.open_on_cpu(target)(images),
        softmax(theirs(path, images, request, nchw=False)),
        rtol=0,
        atol=1e-5,
    )
    assert signature(target) == ours(8, 10)
    assert "Transpose" not in operators(target)
    assert "float32 [N, H, W, C]" in found.changes[0]


@pytest.mark.parametrize("channels_first", [True, False])
def test_a_network_that_takes_pixels_gets_pixels(channels_first: bool, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["n"], ["f"], axes=[2, 3] if channels_first else [1, 2], keepdims=0),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1, alpha=0.01),
    ]
    sides = ("b", 3, 8, 8) if channels_first else ("b", 8, 8, 3)
    path = saved(tmp_path / "theirs.onnx", nodes, [weights("v", K, 3)], sides, kind=TensorProto.UINT8)
    found, target = wrapped(path)
    images = some_images(4, 8, 8, 3)
    means = images.mean(axis=(1, 2)) * 0.01  # [N, C]
    expected = softmax(means @ numpy_helper.to_array(onnx.load(path).graph.initializer[0]).T)
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.original(images), expected, rtol=0, atol=1e-6)
    assert signature(target) == ours()
    assert not {"Mul", "Add", "Identity"} & operators(target).keys()
    # (p - 0) / (1/255), p on the scale 0..1: what the network sees is the pixel.
    assert (found.input_spec.mean, found.input_spec.std) == ((0.0,) * 3, (1 / 255,) * 3)
    refused_path = path.rename(tmp_path / "again.onnx")
    target.unlink()
    refused(refused_path, r"takes uint8 pixels and normalises by itself", mean=(0.5,) * 3)


def test_probabilities_get_no_second_softmax(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(last="Softmax"))
    found, target = wrapped(path)
    images = some_images(3, 8, 8, 3)
    np.testing.assert_allclose(
        verification.open_on_cpu(target)(images), theirs(path, images, ImportRequest()), rtol=0, atol=1e-6
    )
    assert operators(target)["Softmax"] == 1
    assert len(found.changes) == 1


def test_logarithms_of_probabilities_become_the_probabilities(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(last="LogSoftmax"))
    _, target = wrapped(path)
    images = some_images(3, 8, 8, 3)
    np.testing.assert_allclose(
        verification.open_on_cpu(target)(images),
        np.exp(theirs(path, images, ImportRequest())),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("last", [True, False])
def test_scores_with_axes_of_one_pixel_are_flattened(last: bool, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p" if last else "y"]),
        *([helper.make_node("Softmax", ["p"], ["y"], axis=1)] if last else []),
    ]
    path = saved(tmp_path / "theirs.onnx", nodes, [weights("w", K, 3, 3, 3)], sides=(1, 3, 8, 8))
    _, target = wrapped(path)
    images = some_images(3, 8, 8, 3)
    scores = theirs(path, images, ImportRequest()).reshape(3, K)
    expected = scores if last else softmax(scores)
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), expected, rtol=0, atol=1e-6)
    assert signature(target) == ours()
    assert operators(target)["Flatten"] == 1


def test_names_of_theirs_that_are_ours_are_no_trouble(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    renamed = {
        "c": "images",
        "r": "probabilities",
        "p": "scores",
        "f": "scale",
        "w": "network/w",
        "v": "shift",
    }
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in tensors:
        tensor.name = renamed.get(tensor.name, tensor.name)
    path = saved(tmp_path / "theirs.onnx", nodes, tensors)
    _, target = wrapped(path)
    images = some_images(3, 8, 8, 3)
    assert_answers_as_the_file(target, path, images)


def test_other_outputs_are_left_out_when_the_scores_are_named(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes.append(helper.make_node("Mul", ["r", "factor"], ["maps"]))
    path = saved(tmp_path / "theirs.onnx", nodes, [*tensors, constant("factor", 2.0)], outputs=("y", "maps"))
    refused(path, r"^it has 2 outputs \(y, maps\); say which are the scores$")
    refused(path, r"^it has no output 'z'; it has y, maps$", output="z")
    found, target = wrapped(path, ImportRequest(output="y"))
    assert signature(target) == ours()
    assert "without the file's other outputs: maps" in found.changes
    assert b"factor" not in target.read_bytes()


def test_functions_are_put_in_place(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[1] = helper.make_node("Halve", ["c"], ["r"], domain="own")
    half = helper.make_node("Constant", [], ["h"], value=constant("", 0.5))
    halve = helper.make_function(
        "own", "Halve", ["a"], ["b"], [half, helper.make_node("Mul", ["a", "h"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, functions=(halve,), domains=("own",))
    _, target = wrapped(path)
    images = some_images(3, 8, 8, 3)
    assert_answers_as_the_file(target, path, images)
    assert len(onnx.load(target).functions) == 0


TORCHS = [
    ("lenet5", False),
    pytest.param("lenet5", True, marks=pytest.mark.slow),  # 5 to 15 s each
    pytest.param("resnet18", False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "free"), TORCHS)
def test_what_torch_exports_is_wrapped(name: str, free: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = catalog.find(name)
    side_px = 32
    network = spec.network(K, spec.input.resized(side_px, side_px)).eval()
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(2 if free else 1, spec.input.channels, side_px, side_px),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},) if free else None,
    )
    found, target = wrapped(path, ImportRequest(mean=spec.input.mean, std=spec.input.std))
    images = some_images(5, side_px, side_px, spec.input.channels)
    served = tracing.ServedNetwork(network, found.input_spec).eval()
    with torch.no_grad():
        expected = served(torch.tensor(images)).numpy()
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), expected, rtol=0, atol=1e-5)
    assert signature(target) == ours(side_px, side_px, spec.input.channels)
    assert ("any number of images" in " ".join(found.changes)) is not free
    assert b"site-packages" in path.read_bytes()
    assert b"site-packages" not in target.read_bytes()


def test_labels_are_counted(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    refused(path, r"^it has 5 outputs, but there are 4 labels$", labels=("a", "b", "c", "d"))
    assert wrapped(path, ImportRequest(labels=tuple("abcde")))[0].labels == tuple("abcde")


def test_a_free_size_is_taken_where_it_is_given(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(), sides=("n", 3, "h", "w"))
    found, target = wrapped(path, ImportRequest(height=12, width=9))
    assert signature(target) == ours(12, 9)
    assert (found.input_spec.height, found.input_spec.width) == (12, 9)
    images = some_images(3, 12, 9, 3)
    assert_answers_as_the_file(target, path, images)


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    path.write_bytes(model.SerializeToString())
    _, target = wrapped(path)
    assert signature(target) == ours()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog', 4: 'elk'}"),
        ("character", "ant\nbee\ncat\ndog\nelk"),
        ("classes", '["ant", "bee", "cat", "dog", "elk"]'),
        ("labels", '{"ant": 0, "bee": 1, "cat": 2, "dog": 3, "elk": 4}'),
    ],
)
def test_labels_that_the_file_names_are_taken_unless_others_are_given(
    key: str, text: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    model = onnx.load(path)
    model.metadata_props.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    found, _ = wrapped(path)
    assert found.labels == ("ant", "bee", "cat", "dog", "elk")
    assert f"labels are the file's own, its {key!r}" in found.changes
    assert wrapped(path, ImportRequest(labels=tuple("abcde")))[0].labels == tuple("abcde")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("['ant', 'bee']", "'names' has 2 for 5"),
        ("['ant', None]", "the file's own 'names' holds None where a label should be"),
    ],
)
def test_labels_of_the_file_that_do_not_fit_are_passed_over(text: str, reason: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    model = onnx.load(path)
    model.metadata_props.add(key="names", value=text)
    path.write_bytes(model.SerializeToString())
    found, _ = wrapped(path)
    assert found.labels == ("0", "1", "2", "3", "4")
    assert f"its own labels are not taken: {reason}" in found.changes


@pytest.mark.parametrize("last", ["", "Softmax"])
def test_a_network_in_float16_answers_in_float32(last: str, tmp_path: Path) -> None:
    """Its own answers to single pictures, within what its numbers can tell."""
    nodes, tensors = convolutional(last=last)
    narrowed = [
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        for tensor in tensors
    ]
    half = TensorProto.FLOAT16
    path = saved(tmp_path / "theirs.onnx", nodes, narrowed, kind=half, output_kind=half)
    found, target = wrapped(path, ImportRequest(**IMAGENET))
    images = some_images(5, 8, 8, 3)
    values = ((images / 255 - IMAGENET["mean"]) / IMAGENET["std"]).transpose(0, 3, 1, 2).astype(np.float16)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores = np.concatenate([session.run(None, {"x": value[np.newaxis]})[0] for value in values])
    wanted = scores if last else softmax(scores.astype(np.float64))
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), wanted, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.original(images), wanted, rtol=0, atol=2e-3)
    assert signature(target) == ours()
    assert all(tensor.data_type != half for tensor in onnx.load(target).graph.initializer)
    assert "the file took float16 [N, C, H, W]" in found.changes[0]
    assert found.changes[1].startswith(
        "computes in float32; the file, in float16, gives probabilities up to "
    )


def test_scores_in_double_are_served_in_float32(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[-1].output[0] = "s"
    nodes.append(helper.make_node("Cast", ["s"], ["y"], to=TensorProto.DOUBLE))
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, output_kind=TensorProto.DOUBLE)
    _, target = wrapped(path)
    assert_answers_as_the_file(target, path, some_images(5, 8, 8, 3))
    assert signature(target) == ours()
