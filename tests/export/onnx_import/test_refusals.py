"""What cannot be wrapped, and what would cost too much, is refused in one line; nothing is written."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.export.onnx_import.onnx_files import (
    K,
    constant,
    convolutional,
    refused,
    saved,
)


@pytest.mark.parametrize(
    ("sides", "request_", "message"),
    [
        (("n", 3, 8, 3), {}, r"layout cannot be told from \[free, 3, 8, 3\]: say whether it is nchw or nhwc"),
        (("n", "c", 8, 8), {}, r"layout cannot be told from \[free, free, 8, 8\]"),
        (("n", 4, 8, 8), {"layout": "nchw"}, r"as nchw its input \[free, 4, 8, 8\] has neither 1 nor 3"),
        (("n", 3, "h", 8), {}, r"^it leaves its height free: say with --input HxW "),
        (("n", 3, 8, "w"), {"height": 8}, r"^it leaves its width free: say with --input HxW "),
        (("n", 3, 8, 8), {"height": 9}, r"^its height is 8, not 9$"),
        (("n", 3, 8, 5000), {}, r"^its width is 5000; 1 to 4096 pixels are taken$"),
        (("n", 3, "h", "w"), {"height": 1 << 40, "width": 8}, r"^its height is 1099511627776; 1 to 4096"),
        (("n", 3, 8, 0), {}, r"^it leaves its width free: say with --input HxW "),
        (("n", 3, -1, 8), {}, r"^it leaves its height free: say with --input HxW "),
        ((4, 3, 8, 8), {}, r"^its batch is fixed at 4; one that is free or 1 is taken$"),
        (("n", 3, 8), {}, r"^its input has 3 axes where pictures have 4$"),
        (("n", 3, 8, 8), {"mean": (0.5, 0.5)}, r"^mean has 2 numbers for 3 channels$"),
        (("n", 3, 8, 8), {"std": (1.0, 0.0, 1.0)}, r"^std must be above zero"),
        (("n", 3, 8, 8), {"mean": (float("nan"),) * 3}, r"^mean and std must be finite$"),
        (("n", 3, 8, 8), {"activation": "none"}, r"^its scores are no probabilities"),
    ],
)
def test_an_input_that_is_no_picture_is_refused(
    sides: tuple[int | str, ...], request_: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(saved(tmp_path / "theirs.onnx", *convolutional(), sides=sides), message, **request_)


def node(operator: str, *inputs: str, **attributes: Any) -> tuple[list[onnx.NodeProto], list[Any]]:
    return [helper.make_node(operator, list(inputs), ["y"], **attributes)], []


def branch() -> tuple[list[onnx.NodeProto], list[Any]]:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    return [helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)], [
        constant("yes", True, kind=np.bool_)
    ]


def sparse() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    tensor = helper.make_sparse_tensor(constant("", 1.0), constant("", 0, kind=np.int64), [K])
    nodes, tensors = convolutional()
    return [helper.make_node("Constant", [], ["b"], sparse_value=tensor), *nodes], tensors[:2]


def unrelated() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    return [helper.make_node("Identity", ["k"], ["y"])], [numpy_helper.from_array(np.ones((1, K), "f"), "k")]


def infinite() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes, tensors = convolutional()
    nodes[-1].output[0] = "s"
    return [*nodes, helper.make_node("Div", ["s", "zero"], ["y"])], [*tensors, constant("zero", 0.0)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (branch(), r"^it holds control flow \(If\)$"),
        (node("Fused", "x", domain="com.example"), r"^Fused of com\.example is no standard operator$"),
        (node("Gelu", "x", domain="com.microsoft"), r"^Gelu of com\.microsoft is no standard operator$"),
        (node("F\n\x1b[2J", "x", domain="com.example"), r"^F  \[2J of com\.example is no standard operator$"),
        (node("NoSuchThing", "x"), r"^ONNX Runtime cannot load it: .*NoSuchThing"),
        (node("Relu", "x"), r"^it answers one picture with \[1, 3, 8, 8\]; a classifier answers \[1, K\]$"),
        (node("ReduceMean", "x", keepdims=0), r"^it answers one picture with \[\]"),
        (
            node("ReduceMean", "x", axes=[1, 2, 3]),
            r"^its single output may be a probability or a score: say which",
        ),
        (node("ReduceMean", "x", axes=[1, 2]), r"^it holds no weights; a classifier has some$"),
        (sparse(), r"^it holds a sparse tensor \(Constant\), which no artifact may$"),
        (unrelated(), r"^its scores do not depend on the picture$"),
        (infinite(), r"^its scores are infinite, or no numbers$"),
    ],
)
def test_what_is_no_plain_classifier_is_refused(
    made: tuple[list[onnx.NodeProto], list[Any]], message: str, tmp_path: Path
) -> None:
    refused(saved(tmp_path / "theirs.onnx", *made, domains=("com.example", "com.microsoft")), message)


def test_a_free_size_that_does_not_run_is_said_to_be_another(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
    ]
    tensor = numpy_helper.from_array(np.ones((5, 192), np.float32), "v")
    path = saved(tmp_path / "theirs.onnx", nodes, [tensor], sides=("n", 3, "h", "w"))
    refused(
        path,
        r"^it leaves its size free, and yet does not run at 9x9: say with --input HxW .* \(ONNX Runtime ",
        height=9,
        width=9,
    )


def test_labels_instead_of_scores_are_refused(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[-1].output[0] = "s"
    nodes.append(helper.make_node("ArgMax", ["s"], ["y"], axis=1))
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, output_kind=TensorProto.INT64)
    refused(path, r"^its output y is tensor\(int64\), not float scores$")


def test_another_type_or_number_of_inputs_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(), kind=TensorProto.INT32)
    refused(path, r"^its input is INT32; FLOAT, FLOAT16 or UINT8 is taken$")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    model.graph.node[0].input.append("z")
    path.write_bytes(model.SerializeToString())
    refused(path, r"^it has 2 inputs \(x, z\) where a classifier has one$")


def function(name: str, calls: list[str], operator: str = "Relu") -> onnx.FunctionProto:
    names = ["a", *(f"b{index}" for index in range(len(calls) or 1))]
    nodes = [
        helper.make_node(call, [names[index]], [names[index + 1]], domain="own")
        for index, call in enumerate(calls)
    ] or [helper.make_node(operator, ["a"], ["b0"])]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], [names[-1]], nodes, imports)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([function("F", ["F"])], r"^its function F calls itself$"),
        ([function("F", ["G"]), function("G", ["F"])], r"^its function F calls itself$"),
        ([function("F", [], "Loop")], r"^it holds control flow \(Loop\)$"),
        (
            [function("F", ["F1"] * 10)]
            + [function(f"F{level}", [f"F{level + 1}"] * 10) for level in range(1, 9)]
            + [function("F9", [])],
            r"^its functions make 1,000,000,000 nodes; at most 100,000 are taken$",
        ),
        ([function("F", [])] * 501, r"^it has 501 functions; at most 500 are taken$"),
    ],
)
def test_functions_that_never_end_are_refused(
    functions: list[onnx.FunctionProto], message: str, tmp_path: Path
) -> None:
    nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
    path = saved(tmp_path / "theirs.onnx", nodes, [], functions=tuple(functions), domains=("own",))
    refused(path, message)


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("known_when_loading", [True, False])
def test_a_small_file_that_asks_for_gigabytes_gets_none(known_when_loading: bool, tmp_path: Path) -> None:
    size = constant("size", 3_000_000_000, kind=np.int64)  # 12 GB
    bomb = (
        [helper.make_node("ConstantOfShape", ["size"], ["big"])]
        if known_when_loading
        else [
            helper.make_node("ReduceMean", ["x"], ["one"], keepdims=0),
            helper.make_node("Expand", ["one", "size"], ["big"]),
        ]
    )
    nodes, tensors = convolutional()
    nodes[-1].output[0] = "s"
    nodes += [
        *bomb,
        helper.make_node("ReduceMean", ["big"], ["m"], keepdims=0),
        helper.make_node("Add", ["s", "m"], ["y"]),
    ]
    path = saved(tmp_path / "theirs.onnx", nodes, [*tensors, size])
    assert path.stat().st_size < 3000
    limits, before_kb = resource.getrlimit(resource.RLIMIT_DATA), peak_kb()
    refused(path, r"^ONNX Runtime cannot run it: .*Failed to allocate memory")
    assert peak_kb() - before_kb < 1_000_000
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


@pytest.mark.parametrize("kept_ratio", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept_ratio: float, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept_ratio)])
    refused(path, r"^theirs\.onnx is no ONNX file")


@pytest.mark.parametrize("content", [b"just a text\n" * 50, b"PK\x03\x04" * 30, bytes(100)])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(content)
    refused(tmp_path / "theirs.onnx", r"^theirs\.onnx is no ONNX file")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.onnx", r"^absent\.onnx cannot be read: No such file")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", r"^folder\.onnx is not a regular file$")
    with (tmp_path / "huge.onnx").open("wb") as stream:
        stream.truncate(1 << 31)  # a hole
    refused(tmp_path / "huge.onnx", r"^huge\.onnx is larger than 2 GiB$")


def test_an_operator_that_is_newer_than_its_opset_is_refused(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[1] = helper.make_node("ThresholdedRelu", ["c"], ["r"])
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, opset=9, ir_version=4)
    refused(path, r"^it is no valid ONNX: No Op registered for ThresholdedRelu with domain_version of 9$")
