"""A graph's body in half precision.

Written here, because ONNX Runtime's own converter cuts weights to half's range without a word, and casts
back and forth between neighbours that stay in float32.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from export.graph import LAYERS

# Softmax turns small errors into large ones; the square in LRN is beyond half's 65,504 from 256 on.
_FLOAT_OPERATORS = frozenset(("LRN", "Softmax"))


def halve(model: onnx.ModelProto) -> None:
    """Compute in half from the first layer on.

    A layer computes in half, and so does what takes a half value, except `_FLOAT_OPERATORS`. A value is
    cast where it crosses the border, once for all that take it.

    Raises:
        OverflowError: a weight is beyond half's range.
    """
    body = model.graph
    types = _types(model)
    weights = {tensor.name: tensor for tensor in body.initializer}
    half: set[str] = set()  # values that are half now
    crossed: dict[str, str] = {}  # values by the names of their other halves
    nodes: list[NodeProto] = []
    for node in body.node:
        halved = node.op_type not in _FLOAT_OPERATORS and (
            node.op_type in LAYERS or not half.isdisjoint(node.input)
        )
        for index, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT or halved == (name in half):
                continue
            if name not in crossed:
                crossed[name] = f"{name}_{'half' if halved else 'float'}"
                if name in weights:
                    body.initializer.append(_halved(weights[name], crossed[name]))
                else:
                    nodes.append(
                        _cast(name, crossed[name], TensorProto.FLOAT16 if halved else TensorProto.FLOAT)
                    )
            node.input[index] = crossed[name]
        if halved:
            half.update(name for name in node.output if types.get(name) == TensorProto.FLOAT)
        nodes.append(node)
    del body.node[:], body.value_info[:]
    body.node.extend(nodes)


def _halved(tensor: TensorProto, name: str) -> TensorProto:
    """Return a weight in half, under another name.

    Raises:
        OverflowError: it is beyond half's range.
    """
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        halved = values.astype(np.float16)
    if not np.isfinite(halved).all():
        raise OverflowError(
            f"{tensor.name} holds {values.flat[np.abs(values).argmax()]:g}, the largest is 65504"
        )
    return numpy_helper.from_array(halved, name)


def _cast(source: str, target: str, to: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], f"cast_{target}", to=to)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value and weight, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in inferred.initializer
    }
