"""Shapes of a graph's values, and what computing them takes, operator by operator.

Where a shape is not exact it is rounded up, and where it is not known here, that is said: `graph_limits` has
a trial for those.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.repository.onnx_reader import ELEMENT_BYTES, Node, Tensor

Shape = tuple[int, ...]


class UnknownError(Exception):
    """An output's shape is not known."""


@dataclass(frozen=True)
class Value:
    """A tensor's shape, and its numbers where they are few, whole and known."""

    shape: Shape
    element_bytes: int
    numbers: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        """Return how many numbers it has."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Return the memory it takes."""
        return self.elements * self.element_bytes


def constant(tensor: Tensor) -> Value:
    """Return the value that a tensor of the file is."""
    return Value(tensor.shape, tensor.element_bytes, tensor.values)


def infer(node: Node, inputs: Sequence[Value]) -> tuple[Value, int]:
    """Return a node's first output, and the multiply-accumulates that it takes.

    Raises:
        UnknownError: no rule tells.
        Exception: the node is malformed.
    """
    rule = _RULES.get(node.operator)
    if rule is None:
        raise UnknownError(node.operator)
    output = rule(node, inputs)
    return output, max(output.elements, sum(value.elements for value in inputs), _macs(node, inputs, output))


def _macs(node: Node, inputs: Sequence[Value], output: Value) -> int:
    if node.operator == "Conv":
        return output.elements * math.prod(inputs[1].shape[1:])
    if node.operator in ("MaxPool", "AveragePool", "LRN"):
        return output.elements * math.prod(node.numbers.get("kernel_shape", node.numbers.get("size", (1,))))
    if node.operator == "Gemm":
        return output.elements * inputs[0].shape[0 if node.numbers.get("transA", (0,))[0] else 1]
    return output.elements * inputs[0].shape[-1] if node.operator == "MatMul" else 0


def _same(_: Node, inputs: Sequence[Value]) -> Value:
    return Value(inputs[0].shape, inputs[0].element_bytes)


def _broadcast(_: Node, inputs: Sequence[Value]) -> Value:
    rank = max(len(value.shape) for value in inputs)
    padded = [(1,) * (rank - len(value.shape)) + value.shape for value in inputs]
    shape = tuple(0 if 0 in sides else max(sides) for sides in zip(*padded, strict=True))
    return Value(shape, max(value.element_bytes for value in inputs))


def _cast(node: Node, inputs: Sequence[Value]) -> Value:
    return Value(inputs[0].shape, ELEMENT_BYTES[node.numbers["to"][0]])


def _conv(node: Node, inputs: Sequence[Value]) -> Value:
    images, weights = inputs[0], inputs[1]
    return _window(node, images, weights.shape[2:], weights.shape[0])


def _pool(node: Node, inputs: Sequence[Value]) -> Value:
    return _window(node, inputs[0], node.numbers["kernel_shape"], inputs[0].shape[1])


def _window(node: Node, images: Value, kernel: Shape, channels: int) -> Value:
    """Slide a window over ``[N, C, ...]``; sides are rounded up, which is one more at the most."""
    axes = len(images.shape) - 2
    strides = node.numbers.get("strides", (1,) * axes)
    dilations = node.numbers.get("dilations", (1,) * axes)
    pads = node.numbers.get("pads", (0,) * (2 * axes))
    same = node.texts.get("auto_pad", "NOTSET").startswith("SAME")
    if min(strides) < 1 or not len(strides) == len(dilations) == len(kernel) == axes or len(pads) != 2 * axes:
        raise UnknownError(node.operator)
    round_up = node.numbers.get("ceil_mode", (0,))[0]
    sides = []
    for axis, side in enumerate(images.shape[2:]):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        room = side - 1 if same else side + pads[axis] + pads[axes + axis] - reach
        sides.append(max(0, -(-room // strides[axis]) if round_up else room // strides[axis]) + 1)
    return Value((images.shape[0], channels, *sides), images.element_bytes)


def _to_one(_: Node, inputs: Sequence[Value]) -> Value:
    shape = inputs[0].shape
    return Value((*shape[:2], *(1,) * (len(shape) - 2)), inputs[0].element_bytes)


def _axes(node: Node, inputs: Sequence[Value], rank: int) -> set[int]:
    axes = node.numbers.get("axes")
    if axes is None and len(inputs) > 1:
        axes = inputs[1].numbers
        if axes is None:
            raise UnknownError(node.operator)
    if not axes and node.numbers.get("noop_with_empty_axes", (0,))[0]:
        raise UnknownError(node.operator)
    return {axis % rank for axis in axes} if axes else set(range(rank))


def _reduce(node: Node, inputs: Sequence[Value]) -> Value:
    shape = inputs[0].shape
    axes = _axes(node, inputs, len(shape))
    keep = node.numbers.get("keepdims", (1,))[0]
    sides = (1 if axis in axes else side for axis, side in enumerate(shape) if keep or axis not in axes)
    return Value(tuple(sides), inputs[0].element_bytes)


def _squeeze(node: Node, inputs: Sequence[Value]) -> Value:
    shape = inputs[0].shape
    axes = _axes(node, inputs, len(shape))
    return Value(
        tuple(side for axis, side in enumerate(shape) if axis not in axes or side != 1),
        inputs[0].element_bytes,
    )


def _unsqueeze(node: Node, inputs: Sequence[Value]) -> Value:
    given = node.numbers.get("axes") or inputs[1].numbers
    if not given:
        raise UnknownError(node.operator)
    rank = len(inputs[0].shape) + len(given)
    axes, sides = {axis % rank for axis in given}, iter(inputs[0].shape)
    return Value(tuple(1 if axis in axes else next(sides) for axis in range(rank)), inputs[0].element_bytes)


def _flatten(node: Node, inputs: Sequence[Value]) -> Value:
    shape = inputs[0].shape
    axis = node.numbers.get("axis", (1,))[0]
    return Value((math.prod(shape[:axis]), math.prod(shape[axis:])), inputs[0].element_bytes)


def _reshape(node: Node, inputs: Sequence[Value]) -> Value:
    wanted, value = inputs[1].numbers, inputs[0]
    if wanted is None:
        raise UnknownError(node.operator)
    shape = [value.shape[axis] if side == 0 else side for axis, side in enumerate(wanted)]
    known = math.prod(side for side in shape if side != -1)
    shape = [value.elements // known if side == -1 else side for side in shape]
    if math.prod(shape) != value.elements:
        raise UnknownError(node.operator)
    return Value(tuple(shape), value.element_bytes)


def _transpose(node: Node, inputs: Sequence[Value]) -> Value:
    shape = inputs[0].shape
    order = node.numbers.get("perm", tuple(range(len(shape)))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise UnknownError(node.operator)
    return Value(tuple(shape[axis] for axis in order), inputs[0].element_bytes)


def _concat(node: Node, inputs: Sequence[Value]) -> Value:
    shape = list(inputs[0].shape)
    axis = node.numbers["axis"][0]
    shape[axis] = sum(value.shape[axis] for value in inputs)
    return Value(tuple(shape), max(value.element_bytes for value in inputs))


def _gather(node: Node, inputs: Sequence[Value]) -> Value:
    shape, indices = inputs[0].shape, inputs[1].shape
    axis = node.numbers.get("axis", (0,))[0] % len(shape)
    return Value((*shape[:axis], *indices, *shape[axis + 1 :]), inputs[0].element_bytes)


def _gemm(node: Node, inputs: Sequence[Value]) -> Value:
    (rows, across), (down, columns) = inputs[0].shape, inputs[1].shape
    rows = across if node.numbers.get("transA", (0,))[0] else rows
    columns = down if node.numbers.get("transB", (0,))[0] else columns
    return Value((rows, columns), inputs[0].element_bytes)


def _matmul(node: Node, inputs: Sequence[Value]) -> Value:
    left, right = inputs[0], inputs[1]
    if len(left.shape) < 2 or len(right.shape) < 2:
        raise UnknownError(node.operator)
    batch = _broadcast(node, [Value(left.shape[:-2], 1), Value(right.shape[:-2], 1)]).shape
    return Value((*batch, left.shape[-2], right.shape[-1]), left.element_bytes)


def _given(node: Node, _: Sequence[Value]) -> Value:
    if "value" in node.tensors:
        return constant(node.tensors["value"])
    numbers = node.numbers.get("value_ints", node.numbers.get("value_int"))
    if numbers is None:
        raise UnknownError(node.operator)
    return Value((len(numbers),) if "value_ints" in node.numbers else (), 8, numbers)


def _quantize(_: Node, inputs: Sequence[Value]) -> Value:
    return Value(inputs[0].shape, 2)  # 16 bits at the most


def _dequantize(_: Node, inputs: Sequence[Value]) -> Value:
    return Value(inputs[0].shape, 4)


_Rule = Callable[[Node, Sequence[Value]], Value]
_UNARY = (
    *(
        "Abs",
        "BatchNormalization",
        "Clip",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
    ),
    *("Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax"),
    *("Mish", "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh"),
)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where"), _broadcast),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), _reduce),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _to_one),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _given,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
