"""Changes to the nodes of an ONNX graph that has no graphs within: what depends on what, names, the batch."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_QUANTISED = (TensorProto.INT8, TensorProto.UINT8)


def dependents(graph: onnx.GraphProto, name: str) -> set[str]:
    """Name what is computed from a value, itself included."""
    found = {name}
    for node in graph.node:  # sorted, as ONNX demands
        if found & set(node.input):
            found.update(filter(None, node.output))
    return found


def prune(graph: onnx.GraphProto, outputs: Iterable[str]) -> None:
    """Remove what the outputs do not need: nodes, weights."""
    needed = set(outputs)
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    _replace(graph.node, reversed(kept))
    _keep(graph.initializer, [tensor.name in needed for tensor in graph.initializer])
    _keep(graph.sparse_initializer, [tensor.values.name in needed for tensor in graph.sparse_initializer])


def rename(graph: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    """Return every value and node another name: the one in ``names``, or its own behind a prefix."""

    def new(name: str) -> str:
        return names.get(name, prefix + name) if name else name  # an empty name is an absent input

    for node in graph.node:
        node.name = new(node.name)
        _replace(node.input, [new(name) for name in node.input])
        _replace(node.output, [new(name) for name in node.output])
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)


def count_weights(graph: onnx.GraphProto) -> int:
    """Count the numbers in the weights; whole numbers above 8 bits are shapes and indices."""
    tensors = [tensor for tensor in graph.initializer if tensor.data_type in _FLOATS + _QUANTISED]
    return sum(math.prod(tensor.dims) for tensor in tensors)


def free_batch(graph: onnx.GraphProto, images: str) -> int:
    """Let reshapes keep the batch that they wrote as 1; return how many did.

    Whether the first axis of what they reshape is the batch cannot be seen here: run it.
    """
    moving = dependents(graph, images)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
            elif node.op_type == "Constant" and attribute.name == "value_ints":
                constants[node.output[0]] = numpy_helper.from_array(np.array(attribute.ints, np.int64))
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
            _replace(node.attribute, [])
        name = f"{node.output[0]}/shape"  # its own: another reshape may share the constant
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
        changed += 1
    return changed


def _keep(repeated: object, kept: list[bool]) -> None:
    for position in reversed([position for position, keep in enumerate(kept) if not keep]):
        del repeated[position]  # type: ignore[attr-defined]


def _replace(repeated: object, items: Iterable[object]) -> None:
    kept = list(items)
    del repeated[:]  # type: ignore[attr-defined]
    repeated.extend(kept)  # type: ignore[attr-defined]
