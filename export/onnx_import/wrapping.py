"""What is put around a network that came as an ONNX file, as `tracing.ServedNetwork` is around our own."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph import editing, tracing
from export.onnx_import.activation import Activation
from export.onnx_import.signature import TO_NCHW, Images

SCORES = "scores"  # before the activation
_POSITIVE, _NEGATIVE, _ONE = "positive", "negative", "one"  # probabilities of two labels, and their sum
_BGR = "bgr"  # where each of the network's channels lies in red, green, blue
_PREFIX = "network/"  # of what the file brought; no name of it can be one of ours

# An operator, its inputs after the first, its attributes.
_Step = tuple[str, tuple[str, ...], dict[str, Any]]


def put_around(
    model: onnx.ModelProto,
    images: Images,
    output: str,
    shape: tuple[int, ...],
    kind: int,
    activation: Activation,
) -> None:
    """Put pixels before the network and probabilities after it, in the signature of an artifact.

    Args:
        output: name of what the network gives.
        shape: of what it gives for one picture: 1 and S, with any more axes that are 1.
        kind: type of its numbers, in ONNX's numbering.
        activation: what makes probabilities of it.
    """
    inner = model.graph
    before = _normalisation(images)
    after: list[_Step] = [("Flatten", (), {"axis": 1})] if len(shape) != 2 else []
    if kind != TensorProto.FLOAT:
        after.append(("Cast", (), {"to": TensorProto.FLOAT}))
    shaped = len(after)
    if activation.operator:
        after.append((activation.operator, (), {"axis": 1} if activation.operator == "Softmax" else {}))
    last = _POSITIVE if activation.is_binary else tracing.OUTPUT
    taken = "taken" if before else tracing.INPUT
    ends = [f"given/{index}" for index in range(len(after))] + [last]
    if activation.operator:
        ends[shaped] = SCORES
    editing.rename(inner, {images.name: taken, output: ends[0]}, _PREFIX)
    nodes = [
        *_chain(before, [tracing.INPUT, *(f"pixels/{index}" for index in range(len(before) - 1)), taken]),
        *inner.node,
        *_chain(after, ends),
    ]
    if activation.is_binary:
        inner.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.float32), _ONE))
        nodes += [
            helper.make_node("Sub", [_ONE, _POSITIVE], [_NEGATIVE]),
            helper.make_node("Concat", [_NEGATIVE, _POSITIVE], [tracing.OUTPUT], axis=1),
        ]
    for part in (inner.node, inner.input, inner.output, inner.value_info, inner.quantization_annotation):
        del part[:]
    inner.node.extend(nodes)
    spec = images.spec
    if not images.takes_pixels:
        across = (spec.channels, 1, 1) if images.channels_first else (spec.channels,)
        order = -1 if images.bgr else 1  # the channels are in the network's own order by then
        mean, std = np.array(spec.mean)[::order], np.array(spec.std)[::order]
        for name, values in (("scale", 1 / (255 * std)), ("shift", -mean / std)):
            tensor = values.astype(np.float32).reshape(1, *across)
            inner.initializer.append(numpy_helper.from_array(tensor, name))
    if images.bgr:
        inner.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), _BGR))
    sides: list[str | int | None] = [tracing.BATCH_AXIS, spec.height, spec.width, spec.channels]
    inner.input.append(helper.make_tensor_value_info(tracing.INPUT, TensorProto.UINT8, sides))
    inner.output.append(row(tracing.OUTPUT, activation.label_count))
    inner.name = "wrapped"


def row(name: str, count: int) -> onnx.ValueInfoProto:
    """Describe a value of float32 ``[N, K]``."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [tracing.BATCH_AXIS, count])


def _normalisation(images: Images) -> list[_Step]:
    steps: list[_Step] = []
    if images.channels_first:
        steps.append(("Transpose", (), {"perm": TO_NCHW}))
    if images.bgr:  # of bytes, and behind the transposition: three planes are copied, not single pixels
        steps.append(("Gather", (_BGR,), {"axis": 1 if images.channels_first else 3}))
    if not images.takes_pixels:
        steps += [
            ("Cast", (), {"to": TensorProto.FLOAT}),
            ("Mul", ("scale",), {}),
            ("Add", ("shift",), {}),
        ]
    return steps


def _chain(steps: list[_Step], names: list[str]) -> list[onnx.NodeProto]:
    """Make nodes that go from name to name."""
    return [
        helper.make_node(operator, [names[index], *others], [names[index + 1]], **attributes)
        for index, (operator, others, attributes) in enumerate(steps)
    ]
