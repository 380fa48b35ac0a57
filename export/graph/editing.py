"""Changes to the nodes of an ONNX graph that has no graphs within: order, weights, names, the batch."""

import graphlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

_MAX_FOLDED_BYTES = 64 << 20  # of all that ConstantOfShape makes; a few bytes of it can ask for gigabytes
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_QUANTISED = (TensorProto.INT8, TensorProto.UINT8)


def dependents(graph: onnx.GraphProto, name: str) -> set[str]:
    """Name what is computed from a value, itself included."""
    found = {name}
    for node in graph.node:  # sorted, as ONNX demands
        if found & set(node.input):
            found.update(filter(None, node.output))
    return found


def sort(graph: onnx.GraphProto) -> bool:
    """Put every node behind those that it takes values of, where one is not; return whether one was not.

    Raises:
        ValueError: nodes depend on each other in a circle.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [[makers[name] for name in node.input if name in makers] for node in graph.node]
    if all(other < index for index, others in enumerate(needs) for other in others):
        return False
    order = graphlib.TopologicalSorter(dict(enumerate(needs))).static_order()
    replace(graph.node, [graph.node[index] for index in order])
    return True


def prune(graph: onnx.GraphProto, outputs: Iterable[str]) -> None:
    """Remove what the outputs do not need: nodes, weights.

    Args:
        graph: its nodes are sorted.
        outputs: names of values.
    """
    needed = set(outputs)
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    replace(graph.node, reversed(kept))
    _keep(graph.initializer, [tensor.name in needed for tensor in graph.initializer])
    _keep(graph.sparse_initializer, [tensor.values.name in needed for tensor in graph.sparse_initializer])


def rename(graph: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    """Give every value and node another name: the one in ``names``, or its own behind a prefix."""

    def new(name: str) -> str:
        return names.get(name, prefix + name) if name else name  # an empty name is an absent input

    for node in graph.node:
        node.name = new(node.name)
        replace(node.input, [new(name) for name in node.input])
        replace(node.output, [new(name) for name in node.output])
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)


def count_weights(graph: onnx.GraphProto) -> int:
    """Count the numbers in the weights; whole numbers above 8 bits are shapes and indices."""
    tensors = [tensor for tensor in graph.initializer if tensor.data_type in _FLOATS + _QUANTISED]
    return sum(math.prod(tensor.dims) for tensor in tensors)


def fold_constants(graph: onnx.GraphProto) -> None:
    """Make weights of the tensors that nodes hold (Constant) or fill (ConstantOfShape).

    Texts stay in their nodes, and so does what would take too much memory.

    Args:
        graph: its nodes are sorted.

    Raises:
        ValueError: a tensor holds more or fewer numbers than its shape.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    room_bytes, kept = _MAX_FOLDED_BYTES, []
    for node in graph.node:
        tensor = None
        if node.op_type == "Constant":
            tensor = _held(node)
        elif node.op_type == "ConstantOfShape" and node.input[0] in weights:
            tensor = _filled(node, numpy_helper.to_array(weights[node.input[0]]), room_bytes)
            room_bytes -= len(tensor.raw_data) if tensor is not None else 0
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            weights[tensor.name] = tensor
    replace(graph.node, kept)


def _held(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant; None where it is of another kind."""
    for attribute in node.attribute:
        if attribute.name == "value":
            held = onnx.TensorProto()
            held.CopyFrom(attribute.t)
            return held
        if attribute.name in ("value_float", "value_floats"):
            floats = attribute.f if attribute.name == "value_float" else attribute.floats
            return numpy_helper.from_array(np.array(floats, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            integers = attribute.i if attribute.name == "value_int" else attribute.ints
            return numpy_helper.from_array(np.array(integers, np.int64))
    return None


def _filled(node: onnx.NodeProto, shape: npt.NDArray[np.int64], room_bytes: int) -> onnx.TensorProto | None:
    """Return the tensor that a ConstantOfShape makes; None where it cannot be, or is too large."""
    values = [numpy_helper.to_array(attribute.t) for attribute in node.attribute if attribute.name == "value"]
    value = values[0].reshape(-1) if values else np.zeros(1, np.float32)
    sides = [int(side) for side in shape.reshape(-1)]
    if len(value) != 1 or min(sides, default=0) < 0 or math.prod(sides) * value.itemsize > room_bytes:
        return None
    return numpy_helper.from_array(np.full(sides, value[0]))


def free_batch(graph: onnx.GraphProto, images: str) -> int:
    """Let reshapes keep the batch that they wrote as 1; return how many did.

    Whether the first axis of what they reshape is the batch cannot be seen here: run it.

    Args:
        graph: its nodes are sorted, its constants are weights.
        images: name of the input.
    """
    moving = dependents(graph, images)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    changed = 0
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in moving or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64)
        verbatim = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if shape.ndim != 1 or len(shape) < 2 or shape[0] != 1 or (verbatim and 0 in shape):
            continue
        shape[0] = 0  # as it comes
        if verbatim:
            replace(node.attribute, [])
        name = f"{node.output[0]}/shape"  # its own: another reshape may share the constant
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
        changed += 1
    return changed


def _keep(repeated: object, kept: list[bool]) -> None:
    for position in reversed([position for position, keep in enumerate(kept) if not keep]):
        del repeated[position]  # type: ignore[attr-defined]


def inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """List the inputs that are no weights; up to IR version 3, weights are listed among the inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def replace(repeated: object, items: Iterable[object]) -> None:
    """Put other items into a repeated field; they may be some of its own."""
    kept = list(items)
    del repeated[:]  # type: ignore[attr-defined]
    repeated.extend(kept)  # type: ignore[attr-defined]
