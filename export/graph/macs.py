"""What one image costs: the multiply-accumulates of an exported graph."""

import math
from pathlib import Path

import onnx

from artifact.errors import first_line

# These multiply and accumulate too, but no artifact in floating point holds them.
_NOT_COUNTED = frozenset(
    ("ConvInteger", "ConvTranspose", "Einsum", "MatMulInteger", "QLinearConv", "QLinearMatMul")
)
_LARGEST_SHAPE_BYTES = 1024  # initialisers up to this size may be shapes, which the inference reads


def count(path: Path) -> int:
    """Count the multiply-accumulates that an ONNX file spends on one image.

    One multiplication with the addition of its product is one. Counted are ``Conv``, ``Gemm`` and ``MatMul``:
    for every number they give, as many as the products summed up in it. Padding counts as pixels do;
    biases, normalisation, activations and pooling do not count.

    Args:
        path: of a network in floating point; its batch size is taken as 1.

    Returns:
        Papers call this number multiply-adds, torchvision GFLOPS, others half the FLOPs.

    Raises:
        ValueError: an operator multiplies and accumulates in a way not counted here, or a shape is unknown or
            wrong.
        OSError: the file cannot be read.
    """
    graph = _with_shapes(onnx.load(path, load_external_data=False)).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim  # none, too, where even the number of axes is unknown
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = [dim.dim_value for dim in dims]
    total = 0
    for node in graph.node:
        try:
            total += _macs(node, shapes)
        except KeyError as error:
            raise ValueError(f"the shape of {error} in {node.op_type} {node.name} is unknown") from error
    return total


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer every shape for a batch of one, without copying the weights once more."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    for value in light.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    for value in graph.output:
        light.graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        if tensor.ByteSize() <= _LARGEST_SHAPE_BYTES:
            light.graph.initializer.append(tensor)
        else:  # its shape is enough: an input
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    try:
        return onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"the shapes do not fit: {first_line(error)}") from error


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type in _NOT_COUNTED or node.domain:
        name = f"{node.domain}.{node.op_type}".lstrip(".")
        raise ValueError(f"the multiply-accumulates of {name} are not counted")
    if node.op_type == "Conv":
        summed = math.prod(shapes[node.input[1]][1:])  # [C_out, C_in / groups, *kernel]
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        summed = shapes[node.input[0]][0 if transposed else 1]
    elif node.op_type == "MatMul":
        summed = shapes[node.input[0]][-1]
    else:
        return 0
    return math.prod(shapes[node.output[0]]) * summed
