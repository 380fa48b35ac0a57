"""The one form that ONNX files of unknown origin are brought into before they are judged.

Exporters write the same network in many ways: nodes in any order, weights as nodes, a free axis as a name, -1
or 0, outputs beside the scores. None of it is a reason to refuse a file.
"""

import numpy as np
import onnx
import onnx.version_converter
from onnx import helper, numpy_helper

from export.errors import one_line
from export.graph import editing, tracing
from export.onnx_import import onnx_file
from export.onnx_import.onnx_file import STANDARD, OnnxImportError, reason
from export.onnx_import.signature import Images

_LOWEST_OPSET = 13  # from which Softmax is over one axis
_IR_VERSION = 10  # the exporter's own; from 4 on, weights are not listed among the inputs


def reduce(model: onnx.ModelProto, output: str) -> list[str]:
    """Sort the nodes, and leave out what one output does not need; tell what changed.

    Raises:
        OnnxImportError: nodes depend on each other in a circle.
    """
    graph, changes = model.graph, []
    try:
        if editing.sort(graph):
            changes.append("nodes sorted; in the file, some came before what they take")
    except ValueError as error:
        raise OnnxImportError("its nodes depend on each other in a circle") from error
    if others := [value.name for value in graph.output if value.name != output]:
        changes.append(one_line(f"without the file's other outputs: {', '.join(others)}"))
    editing.prune(graph, [output])
    taken = {name for node in graph.node for name in node.input}
    inputs = editing.inputs(graph)
    # Of inputs of which none is taken, all stay: the scores do not depend on the picture, and are refused so.
    used = [value for value in inputs if value.name in taken] or inputs
    if unused := [value.name for value in inputs if value not in used]:
        changes.append(
            one_line(f"without the file's inputs that its scores do not need: {', '.join(unused)}")
        )
    editing.replace(graph.input, used)
    editing.replace(graph.output, [value for value in graph.output if value.name == output][:1])
    return changes


def free_axes(model: onnx.ModelProto, images: Images) -> None:
    """Write the sides of the picture into the graph, and leave the batch free unless it is fixed.

    What the file says of the shapes of other values is dropped: it may be of another batch.
    """
    graph, spec = model.graph, images.spec
    size = (spec.height, spec.width)
    sides = [spec.channels, *size] if images.channels_first else [*size, spec.channels]
    batch: int | str = 1 if images.batch_is_fixed else tracing.BATCH_AXIS
    (picture,) = (value for value in graph.input if value.name == images.name)
    kind = picture.type.tensor_type.elem_type
    picture.CopyFrom(helper.make_tensor_value_info(images.name, kind, [batch, *sides]))
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def widen(model: onnx.ModelProto) -> bool:
    """Make float32 of every float16 of a network that takes or gives float16; return whether it does.

    Its weights stay the numbers that they are; its sums become more exact, and do not depend on the batch.
    """
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    values = [value.type.tensor_type for value in (*editing.inputs(model.graph), *model.graph.output)]
    if all(value.elem_type != half for value in values):
        return False
    for tensor in onnx_file.tensors_of(model):
        if tensor.data_type == half:
            exact = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
    for value in values:
        value.elem_type = full if value.elem_type == half else value.elem_type
    for node in model.graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name) == ("Cast", "to") and attribute.i == half:
                attribute.i = full
    del model.graph.value_info[:]
    return True


def modernise(model: onnx.ModelProto, shape: tuple[int, ...], kind: int) -> list[str]:
    """Make weights of constants, and bring the model to an opset that the wrapping is written for.

    Args:
        model: of one output.
        shape: of that output for one picture, the batch first.
        kind: type of its numbers, in ONNX's numbering.

    Returns:
        What changed, one sentence each.

    Raises:
        OnnxImportError: it is no valid ONNX, or cannot be converted.
    """
    graph = model.graph
    for node in graph.node:
        node.domain = ""
    before = max((opset.version for opset in model.opset_import if opset.domain in STANDARD), default=0)
    output = graph.output[0].name
    graph.output[0].CopyFrom(helper.make_tensor_value_info(output, kind, [None, *shape[1:]]))
    editing.replace(model.opset_import, [helper.make_opsetid("", before)])
    model.ir_version = _IR_VERSION
    model.ClearField("training_info")
    try:
        onnx.checker.check_model(model)
        editing.fold_constants(graph)
        editing.prune(graph, [output])  # what only constants took
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker, protobuf and NumPy each have their own
        raise OnnxImportError(f"it is no valid ONNX: {reason(error)}") from error
    if before >= _LOWEST_OPSET:
        return []
    try:
        model.CopyFrom(onnx.version_converter.convert_version(model, tracing.OPSET))
        editing.fold_constants(model.graph)  # which the conversion adds
    except Exception as error:
        raise OnnxImportError(
            f"its opset {before} cannot be made {tracing.OPSET}: {reason(error)}"
        ) from error
    return [f"opset {tracing.OPSET}; the file had {before}"]
