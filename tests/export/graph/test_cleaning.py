"""A graph that is no artifact's is named for what is wrong with it; what is idle goes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from export.graph import cleaning

FLOAT = onnx.TensorProto.FLOAT
NOBODY: dict[str, np.ndarray] = {}


def model(*nodes: onnx.NodeProto, numbers: dict[str, np.ndarray] = NOBODY) -> onnx.ModelProto:
    """A graph from `in` to `out`, both [N, 1, 4, 4], that turns its maps first."""
    turned = helper.make_node("Transpose", ["in"], ["turned"], perm=[0, 1, 3, 2])
    ends = [helper.make_tensor_value_info(name, FLOAT, ["N", 1, 4, 4]) for name in ("in", "out")]
    tensors = [numpy_helper.from_array(array, name) for name, array in numbers.items()]
    graph = helper.make_graph([turned, *nodes], "net", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def pool(source: str, to: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("AveragePool", [source], [to], **attributes)


def norm(source: str, to: str, name: str) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [source, "one", "zero", "zero", "one"], [to], name=name)


NORM = {"one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
FILTER = {"filter": np.full((1, 1, 1, 1), 2, np.float32)}


def test_pools_that_average_one_pixel_go_and_the_answer_stays() -> None:
    made = model(
        pool("turned", "a", kernel_shape=[1, 1]),
        pool("a", "b", kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0]),
        helper.make_node("Add", ["b", "a"], ["out"]),
    )
    made.graph.value_info.append(helper.make_tensor_value_info("b", FLOAT, ["N", 1, 4, 4]))
    cleaning.clean(made)
    assert [node.op_type for node in made.graph.node] == ["Transpose", "Add"]
    assert len(made.graph.value_info) == 0
    onnx.checker.check_model(made, full_check=True)
    maps = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"in": maps})[0], 2 * maps.swapaxes(2, 3))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]},
        {"kernel_shape": [2, 1], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]},
    ],
)
def test_a_pool_that_averages_more_than_a_pixel_stays(attributes: dict[str, object]) -> None:
    made = model(pool("turned", "a", **attributes), helper.make_node("Relu", ["a"], ["out"]))
    before = made.SerializeToString()
    cleaning.clean(made)
    assert made.SerializeToString() == before


def test_a_pool_that_strides_is_not_idle_though_it_averages_one_pixel() -> None:
    made = model(
        pool("turned", "a", kernel_shape=[1, 1], strides=[2, 2]),  # [N, 1, 2, 2]
        helper.make_node("Concat", ["a", "a"], ["b"], axis=2),
        helper.make_node("Concat", ["b", "b"], ["out"], axis=3),
    )
    cleaning.clean(made)
    assert [node.op_type for node in made.graph.node] == ["Transpose", "AveragePool", "Concat", "Concat"]


def test_an_idle_pool_that_gives_the_answer_keeps_its_name() -> None:
    made = model(pool("turned", "out", kernel_shape=[1, 1]))
    cleaning.clean(made)
    assert [node.op_type for node in made.graph.node] == ["Transpose", "AveragePool"]


def test_a_batch_normalisation_that_a_convolution_could_take_is_a_fault() -> None:
    made = model(
        helper.make_node("Conv", ["turned", "filter"], ["a"]),
        norm("a", "b", "norm1"),
        norm("b", "out", "norm2"),  # reads no convolution
        numbers=NORM | FILTER,
    )
    assert cleaning.faults(made.graph) == ["norm1 could be folded into the Conv before it"]


def test_a_batch_normalisation_of_what_others_read_too_is_none() -> None:
    made = model(
        helper.make_node("Conv", ["turned", "filter"], ["a"]),
        norm("a", "b", "norm"),
        helper.make_node("Add", ["a", "b"], ["out"]),
        numbers=NORM | FILTER,
    )
    assert cleaning.faults(made.graph) == []


def test_an_operator_of_another_domain_is_not_the_one_of_the_same_name() -> None:
    made = model(helper.make_node("Relu", ["turned"], ["out"]))
    assert cleaning.faults(made.graph) == []
    made.graph.node[1].domain = "com.example"
    assert cleaning.faults(made.graph) == ["com.example.Relu not allowed"]


def test_every_fault_is_named() -> None:
    made = model(
        helper.make_node("Identity", ["turned"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "maps"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["out"]),
        numbers={"flat": np.array([-1, 16]), "maps": np.array([-1, 1, 4, 4])},
    )
    assert cleaning.faults(made.graph) == [
        "Identity, Sigmoid not allowed",
        "2 Transpose instead of 1",
        "3 Reshape or Flatten, at most 1 allowed",
    ]
