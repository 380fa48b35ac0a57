"""A graph's body in float16 precision.

Written here, because ONNX Runtime's own converter cuts weights to float16's range without a word, and casts
back and forth between neighbours that stay in float32.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from export.graph import editing
from export.graph.tracing import LAYERS

# Softmax turns small errors into large ones; the square in LRN is beyond float16's 65,504 from 256 on.
_FLOAT_OPERATORS = frozenset(("LRN", "Softmax"))


def to_float16(model: onnx.ModelProto) -> None:
    """Compute in float16 from the first layer on.

    A layer computes in float16, and so does what takes a float16 value, except `_FLOAT_OPERATORS`. A value is
    cast where it crosses the border, once for all that take it.

    Raises:
        OverflowError: a weight is beyond float16's range.
    """
    body = model.graph
    types = _types(model)
    weights = {tensor.name: tensor for tensor in body.initializer}
    float16: set[str] = set()  # values that are float16 now
    crossed: dict[str, str] = {}  # values by the names of what they were cast to
    nodes: list[NodeProto] = []
    for node in body.node:
        converted = node.op_type not in _FLOAT_OPERATORS and (
            node.op_type in LAYERS or not float16.isdisjoint(node.input)
        )
        for index, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT or converted == (name in float16):
                continue
            if name not in crossed:
                crossed[name] = f"{name}_{'float16' if converted else 'float32'}"
                if name in weights:
                    body.initializer.append(_converted(weights[name], crossed[name]))
                else:
                    nodes.append(
                        _cast(name, crossed[name], TensorProto.FLOAT16 if converted else TensorProto.FLOAT)
                    )
            node.input[index] = crossed[name]
        if converted:
            float16.update(name for name in node.output if types.get(name) == TensorProto.FLOAT)
        nodes.append(node)
    for name in [value.name for value in body.output if value.name in float16]:
        nodes = [*_renamed(nodes, name, f"{name}_float16"), _cast(f"{name}_float16", name, TensorProto.FLOAT)]
    del body.value_info[:]
    editing.replace(body.node, nodes)


def _renamed(nodes: list[NodeProto], old: str, new: str) -> list[NodeProto]:
    """Give a value another name wherever it is made and taken."""
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    return nodes


def _converted(tensor: TensorProto, name: str) -> TensorProto:
    """Return a weight in float16, under another name.

    Raises:
        OverflowError: it is beyond float16's range.
    """
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        converted = values.astype(np.float16)
    if not np.isfinite(converted).all():
        raise OverflowError(
            f"{tensor.name} holds {values.flat[np.abs(values).argmax()]:g}, the largest is 65504"
        )
    return numpy_helper.from_array(converted, name)


def _cast(source: str, target: str, to: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], f"cast_{target}", to=to)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value and weight, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in inferred.initializer
    }
