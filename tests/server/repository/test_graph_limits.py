"""A graph's memory and work are known before a session opens, or a trial in another process finds out."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from artifact.errors import UnsafeGraphError
from server.repository import graph_limits, onnx_reader, trial
from tests.server.repository import small

Node = helper.make_node
GIB = 1 << 30


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def summed(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Sum up ``huge`` to the one number that is added to the pixels."""
    return [
        *nodes,
        Node("ReduceMean", ["huge"], ["mean"], keepdims=0),
        Node("Reshape", ["mean", "one"], ["extra"]),
    ]


def constant_of(*shape: int) -> onnx.ModelProto:
    return small.graph(
        summed(Node("ConstantOfShape", ["shape"], ["huge"])), [ints("shape", *shape), ints("one", 1)]
    )


def endless_loop() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [Node("Identity", ["go"], ["go_on"]), Node("Add", ["sum_in", "step"], ["sum_out"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("sum_in", 1, [1])],
        [value("go_on", TensorProto.BOOL, []), value("sum_out", 1, [1])],
    )
    nodes = [Node("Loop", ["turns", "", "start"], ["extra"], body=body)]
    turns = numpy_helper.from_array(np.array(1 << 62, np.int64), "turns")
    return small.graph(nodes, [turns, floats("start", 1), floats("step", 1)])


def doubled(times: int) -> onnx.ModelProto:
    """Concatenate a constant with itself, again and again."""
    nodes, name = [], "seed"
    for turn in range(times):
        nodes.append(Node("Concat", [name, name], [f"twice{turn}"], axis=0))
        name = f"twice{turn}"
    nodes.append(Node("Identity", [name], ["huge"]))
    return small.graph(summed(*nodes), [floats("seed", 1024), ints("one", 1)])


def outer_product(side: int) -> onnx.ModelProto:
    nodes = summed(Node("Add", ["column", "row"], ["huge"]))
    return small.graph(nodes, [floats("column", side, 1), floats("row", 1, side), ints("one", 1)])


def padded_convolution(pad: int) -> onnx.ModelProto:
    nodes = summed(Node("Conv", ["picture", "kernel"], ["huge"], pads=[pad] * 4))
    return small.graph(nodes, [floats("picture", 1, 1, 4, 4), floats("kernel", 1, 1, 3, 3), ints("one", 1)])


def long_convolution(side: int) -> onnx.ModelProto:
    nodes = summed(Node("Conv", ["picture", "kernel"], ["huge"], auto_pad="SAME_UPPER"))
    tensors = [floats("picture", 1, 1, side, side), floats("kernel", 1, 1, side, side), ints("one", 1)]
    return small.graph(nodes, tensors)


def undeclared(elements: int) -> onnx.ModelProto:
    """Declare more numbers than there are."""
    model = constant_of(4)
    model.graph.initializer.append(onnx.TensorProto(name="w", data_type=1, dims=[elements], float_data=[1.0]))
    return model


def external() -> onnx.ModelProto:
    model = small.graph()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model


def sparse() -> onnx.ModelProto:
    model = small.graph()
    model.graph.sparse_initializer.add(values=floats("s", 1), indices=ints("i", 10**12), dims=[10**13])
    return model


def function() -> onnx.ModelProto:
    return small.graph(
        functions=[helper.make_function("ai.x", "F", ["x"], ["y"], [Node("Relu", ["x"], ["y"])], [])]
    )


def of_another_domain() -> onnx.ModelProto:
    return small.graph([Node("Range", ["images"], ["extra"], domain="com.microsoft")])


def filled(operator: str, **attributes: object) -> onnx.ModelProto:
    return small.graph(summed(Node(operator, [], ["huge"], **attributes)), [ints("one", 1)])


def made(operator: str, *tensors: onnx.TensorProto) -> onnx.ModelProto:
    nodes = summed(Node(operator, [tensor.name for tensor in tensors], ["huge"]))
    return small.graph(nodes, [*tensors, ints("one", 1)])


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "endless loop": (endless_loop, "holds control flow (Loop), which no artifact may"),
    "constant of 6 gb": (lambda: constant_of(1_500_000_000), "its trial within 268435456 bytes"),
    "normal noise": (lambda: filled("RandomNormal", shape=[1_500_000_000]), "its trial within"),
    "tile": (lambda: made("Tile", floats("x", 1024), ints("n", 1_500_000)), "its trial within"),
    "expand": (lambda: made("Expand", floats("x", 1), ints("n", 1_500_000_000)), "its trial within"),
    "range": (
        lambda: made(
            "Range",
            *(numpy_helper.from_array(np.float32(v), n) for n, v in (("a", 0), ("b", 2e9), ("c", 1))),
        ),
        "its trial within",
    ),
    "doubling": (lambda: doubled(30), "bytes for a batch of 2; at most 268435456 allowed"),
    "outer product": (lambda: outer_product(100_000), "bytes for a batch of 2; at most 268435456 allowed"),
    "padding": (lambda: padded_convolution(100_000), "bytes for a batch of 2; at most 268435456 allowed"),
    "long convolution": (lambda: long_convolution(2000), "multiply-accumulates an image; at most 1e+12"),
    "undeclared": (
        lambda: undeclared(1 << 40),
        "declares a constant of 4398046511104 bytes that is not",
    ),
    "another file": (external, "keeps data in another file, which no artifact may"),
    "sparse": (sparse, "holds a sparse tensor, which no artifact may"),
    "function": (function, "holds functions, which no artifact may"),
    "another domain": (of_another_domain, "holds 'Range' of 'com.microsoft', which no artifact may"),
}


TRIED = {name for name, (_, reason) in HOSTILE.items() if reason.startswith("its trial")}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(HOSTILE.keys() - TRIED, id="known"),
        pytest.param(TRIED, id="tried", marks=pytest.mark.slow),
    ],
)
def test_graphs_that_ask_for_too_much_fail_and_the_others_serve(
    serve, tmp_path: Path, names: set[str]
) -> None:
    small.publish(tmp_path, "good")
    for name in names:
        small.publish(tmp_path, name.replace(" ", "-"), model=HOSTILE[name][0]())
    served = serve(max_model_bytes=256 << 20)
    assert served.running.ready == ["good"]
    listed = served.require_agreement()
    for name in names:
        reason = listed[name.replace(" ", "-")].reason
        assert HOSTILE[name][1] in reason
        assert len(reason) <= 200


def test_a_graph_whose_shapes_are_not_known_serves_after_a_trial(serve, tmp_path: Path) -> None:
    small.publish(tmp_path, "net", model=constant_of(10))
    served = serve()
    assert served.classify("net") == 1


@pytest.mark.slow
def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(endless_loop().SerializeToString())
    with pytest.raises(UnsafeGraphError, match=r"its trial timed out after 3 s \(setting load_timeout_s\)"):
        trial.require(tmp_path / "model.onnx", (4, 4, 1), [1], GIB, 3)


def test_what_a_trial_says_holds_no_path(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(UnsafeGraphError, match=r"model\.onnx: its trial within .* failed: ") as caught:
        trial.require(tmp_path / "model.onnx", (4, 4, 1), [1], GIB, 60)
    assert str(tmp_path) not in str(caught.value)


def test_a_load_that_takes_too_long_is_ended_and_its_lane_serves_on(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.publish(tmp_path, "a")
    small.publish(tmp_path, "endless", model=endless_loop())
    monkeypatch.setattr(graph_limits, "require_bounded", lambda *_: True)  # as if it were not known
    served = serve(lanes=1, load_timeout_s=1)
    assert served.running.ready == ["a"]
    assert served.listed()["endless"].reason == "load timed out after 1 s (setting load_timeout_s)"
    assert served.classify("a") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_a_load_that_finds_no_memory_fails_and_its_lane_serves_on(
    serve, tmp_path: Path, error: Exception
) -> None:
    from server.runtime.network import OnnxNetwork

    def open_network(path, manifest, device, sizes):
        if manifest.name == "large":
            raise error
        return OnnxNetwork(path, manifest, device, sizes)

    small.publish(tmp_path, "a")
    small.publish(tmp_path, "large")
    served = serve(open_network=open_network, lanes=1)
    assert served.running.ready == ["a"]
    assert served.listed()["large"].reason == "there is not enough memory to load it"
    assert served.classify("a") == 1


def cost(model: onnx.ModelProto, shape: tuple[int, ...], tmp_path: Path) -> graph_limits.Cost | None:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return graph_limits.cost(onnx_reader.read(tmp_path / "model.onnx"), shape)


def one_node(
    operator: str, inputs: dict[str, tuple[int, ...]], constants=(), **attributes
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()]
    node = Node(operator, [*inputs, *(tensor.name for tensor in constants)], ["y"], **attributes)
    body = helper.make_graph(
        [node], "one", given, [helper.make_tensor_value_info("y", 1, None)], list(constants)
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    "model",
    [
        one_node(
            "Conv", {"x": (2, 4, 9, 7)}, [floats("w", 6, 2, 3, 3)], group=2, strides=[2, 1], pads=[1, 0, 2, 1]
        ),
        one_node("Conv", {"x": (2, 4, 9, 7)}, [floats("w", 6, 4, 3, 2)], dilations=[2, 3]),
        one_node(
            "Conv", {"x": (2, 4, 9, 7)}, [floats("w", 6, 4, 3, 3)], auto_pad="SAME_UPPER", strides=[2, 2]
        ),
        one_node("MaxPool", {"x": (2, 4, 9, 8)}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        one_node("AveragePool", {"x": (2, 4, 9, 8)}, kernel_shape=[3, 2], pads=[1, 1, 0, 0]),
        one_node("GlobalAveragePool", {"x": (2, 4, 9, 8)}),
        one_node("ReduceMean", {"x": (2, 4, 9, 8)}, [ints("axes", -1, 1)], keepdims=0),
        one_node("ReduceSum", {"x": (2, 4, 9, 8)}),
        one_node("Concat", {"x": (2, 4, 9, 8)}, [floats("c", 2, 3, 9, 8)], axis=-3),
        one_node("Flatten", {"x": (2, 4, 9, 8)}, axis=2),
        one_node("Gather", {"x": (2, 3, 9, 8)}, [ints("i", 2, 1, 0)], axis=1),
        one_node("Gather", {"x": (2, 9, 8, 3)}, [ints("i", 2, 1, 0)], axis=-1),
        one_node("Reshape", {"x": (2, 4, 9, 8)}, [ints("s", 0, -1, 4)]),
        one_node("Transpose", {"x": (2, 4, 9, 8)}, perm=[0, 3, 1, 2]),
        one_node("Transpose", {"x": (2, 4, 9, 8)}),
        one_node("Squeeze", {"x": (2, 1, 9, 1)}, [ints("axes", 1, -1)]),
        one_node("Unsqueeze", {"x": (2, 9)}, [ints("axes", 0, -1)]),
        one_node("Gemm", {"x": (2, 4)}, [floats("w", 5, 4)], transB=1),
        one_node("MatMul", {"x": (3, 1, 2, 4)}, [floats("w", 7, 4, 5)]),
        one_node("Mul", {"x": (2, 1, 9, 8)}, [floats("c", 4, 1, 8)]),
    ],
)
def test_shapes_are_those_that_onnx_infers(model: onnx.ModelProto, tmp_path: Path) -> None:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    kind = inferred.graph.output[0].type.tensor_type
    shape = tuple(side.dim_value for side in kind.shape.dim)
    given = tuple(side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim)
    found = cost(model, given, tmp_path)
    assert found is not None
    taken_bytes = found.peak_bytes - np.prod(given)  # the input counts as bytes
    assert taken_bytes in [np.prod(shape) * element_bytes for element_bytes in (1, 4)]


@pytest.mark.parametrize("kind", [1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 16, 17, 21, 22])
@pytest.mark.parametrize("raw", [True, False])
def test_constants_are_as_large_as_onnx_reads_them(kind: int, raw: bool, tmp_path: Path) -> None:
    values = np.ones((3, 5), helper.tensor_dtype_to_np_dtype(kind))
    tensor = numpy_helper.from_array(values, "w")
    assert tensor.data_type == kind
    if not raw:
        tensor = helper.make_tensor("w", kind, (3, 5), values.astype(np.float32).ravel().tolist())
    model = small.graph([Node("Identity", ["w"], ["unused"])], [tensor])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = onnx_reader.read(tmp_path / "m.onnx").tensors["w"]
    assert found.shape == (3, 5)
    assert found.size_bytes == max(values.nbytes, values.size)
    if kind == TensorProto.INT64:
        assert found.values == (1,) * 15


def test_mutated_files_are_read_or_refused_and_no_larger_than_onnx_says(tmp_path: Path) -> None:
    whole = doubled(3).SerializeToString()
    generator = random.Random(0)
    path = tmp_path / "m.onnx"
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content[: generator.choice([len(content), generator.randrange(1, len(content))])])
        try:
            found = onnx_reader.read(path)
        except UnsafeGraphError:
            continue
        try:
            model = onnx.load(path)
        except Exception:  # noqa: BLE001 - ONNX Runtime would refuse it, too
            continue
        assert {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} == {
            name: tensor.shape for name, tensor in found.tensors.items()
        }
        assert [node.op_type for node in model.graph.node] == [node.operator for node in found.nodes]


def test_the_count_of_nodes_and_fields_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(doubled(20).SerializeToString())
    monkeypatch.setattr(onnx_reader, "MAX_NODES", 20)
    with pytest.raises(UnsafeGraphError, match="holds more than 20 nodes"):
        onnx_reader.read(tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_reader, "_MAX_FIELDS", 30)
    with pytest.raises(UnsafeGraphError, match="holds more than 30 fields"):
        onnx_reader.read(tmp_path / "m.onnx")
