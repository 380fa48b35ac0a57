"""Classifiers as other people export them, and what is done with them in tests."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import verification
from export.onnx_import import conversion
from export.onnx_import.conversion import ImportRequest, OnnxImportError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RANDOM = np.random.default_rng(0)
K = 5


def constant(name: str, *values: float, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(
        RANDOM.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32), name
    )


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    sides: tuple[int | str | None, ...] = ("batch", 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    ir_version: int = 8,
    output_kind: int = TensorProto.FLOAT,
    functions: tuple[onnx.FunctionProto, ...] = (),
    domains: tuple[str, ...] = (),
) -> Path:
    given = helper.make_tensor_value_info("x", kind, list(sides))
    answers = [helper.make_tensor_value_info(name, output_kind, None) for name in outputs]
    body = helper.make_graph(nodes, "theirs", [given], answers, tensors)
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)],
        functions=functions,
        ir_version=ir_version,
    )
    path.write_bytes(model.SerializeToString())
    return path


def convolutional(
    flatten: list[onnx.NodeProto] | None = None, last: str = "", channels: int = 3
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Convolution, mean over each map, linear layer: NCHW to scores, or to what ``last`` makes of them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        *(flatten or [helper.make_node("Flatten", ["p"], ["f"], axis=1)]),
        helper.make_node("Gemm", ["f", "v", "b"], ["s" if last else "y"], transB=1),
        *(
            [helper.make_node(last, ["s"], ["y"], **({} if last == "Sigmoid" else {"axis": 1}))]
            if last
            else []
        ),
    ]
    tensors = [weights("w", 7, channels, 3, 3), weights("v", K, 7), weights("b", K), *shapes(flatten)]
    return nodes, tensors


def shapes(flatten: list[onnx.NodeProto] | None) -> list[onnx.TensorProto]:
    names = {name for node in flatten or () for name in node.input}
    known = {"to_rows": (1, -1), "to_seven": (1, 7), "to_any_seven": (-1, 7)}
    return [constant(name, *known[name], kind=np.int64) for name in sorted(names & known.keys())]


def theirs(path: Path, images: np.ndarray, request: ImportRequest, nchw: bool = True) -> np.ndarray:
    """What the file itself says of each single picture, in double precision around it."""
    values = (images / 255 - (request.mean or 0.0)) / (request.std or 1.0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pictures = (values.transpose(0, 3, 1, 2) if nchw else values).astype(np.float32)
    return np.concatenate([session.run(None, {"x": picture[np.newaxis]})[0] for picture in pictures])


def assert_answers_as_the_file(target: Path, path: Path, images: np.ndarray) -> None:
    """What was wrapped gives the probabilities of the file's own scores."""
    np.testing.assert_allclose(
        verification.open_on_cpu(target)(images),
        softmax(theirs(path, images, ImportRequest())),
        rtol=0,
        atol=1e-6,
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def some_images(*sides: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, sides, np.uint8)


def wrapped(path: Path, request: ImportRequest | None = None) -> tuple[conversion.Wrapped, Path]:
    target = path.with_name("model.onnx")
    return conversion.wrap(path, target, request or ImportRequest()), target


def signature(path: Path) -> list[tuple[str, int, list[int | str]]]:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    ]


def ours(height: int = 8, width: int = 8, channels: int = 3) -> list[tuple[str, int, list[int | str]]]:
    return [
        ("images", TensorProto.UINT8, ["N", height, width, channels]),
        ("probabilities", TensorProto.FLOAT, ["N", K]),
    ]


def refused(path: Path, message: str, **request: Any) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(OnnxImportError, match=message) as caught:
        conversion.wrap(path, path.with_name("model.onnx"), ImportRequest(**request))
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.iterdir()) == before


def outcome(path: Path, target: Path, request: ImportRequest) -> str:
    """Import a file that may hold anything; return how it ended."""
    try:
        found = conversion.wrap(path, target, request)
    except OnnxImportError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.isprintable()
        assert not target.exists()
        return "refused"
    onnx.checker.check_model(onnx.load(target), full_check=True)
    assert len(found.labels) >= 2
    return "imported"
