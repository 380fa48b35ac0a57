"""What a graph may hold to be an artifact's, and what is taken out of it first."""

from collections import Counter
from collections.abc import Iterator

import onnx

# What the architectures are made of. Each of these runs on the CPU and on CUDA, and none computes a shape:
# a CUDA graph can capture every network that holds nothing else.
ALLOWED_OPERATORS = frozenset(
    (
        # The wrapping: layout, normalisation, softmax.
        "Transpose",
        "Cast",
        "Mul",
        "Add",
        "Sub",
        "Softmax",
        # The layers.
        "AveragePool",
        "BatchNormalization",
        "Concat",
        "Conv",
        "Flatten",
        "Gemm",
        "LRN",
        "MaxPool",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Tanh",
    )
)


def clean(model: onnx.ModelProto) -> None:
    """Take out what a network does not need to answer: traces of the exporting machine, idle pools.

    Args:
        model: changed in place.
    """
    strip(model)
    _drop_idle_pools(model.graph)


def faults(graph: onnx.GraphProto) -> list[str]:
    """Say what keeps a graph from being an artifact's.

    Returns:
        One short phrase a fault; empty where there is none.
    """
    counts = Counter(_name(node) for node in graph.node)
    strays = sorted(counts.keys() - ALLOWED_OPERATORS)
    found = [f"{', '.join(strays)} not allowed"] if strays else []
    # Images come as [N, H, W, C] and are turned once; a second turn is a layer that wants another layout.
    if counts["Transpose"] != 1:
        found.append(f"{counts['Transpose']} Transpose instead of 1")
    # Maps become vectors once.
    if (flattened := counts["Reshape"] + counts["Flatten"]) > 1:
        found.append(f"{flattened} Reshape or Flatten, at most 1 allowed")
    found += [f"{name} could be folded into the Conv before it" for name in _foldable(graph)]
    return found


def _name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, source paths and names of the exporting machine."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _drop_idle_pools(graph: onnx.GraphProto) -> None:
    """Remove every average over one pixel, which an adaptive pool becomes where its size is the map's."""
    outputs = {value.name for value in graph.output}
    idle = [node for node in graph.node if _is_idle(node) and node.output[0] not in outputs]
    for pool in idle:  # in the graph's order: of two in a row, the second already reads the first's input
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == pool.output[0]:
                    node.input[index] = pool.input[0]
    gone = {pool.output[0] for pool in idle}
    for pool in idle:
        graph.node.remove(pool)
    for value in [value for value in graph.value_info if value.name in gone]:
        graph.value_info.remove(value)


def _is_idle(node: onnx.NodeProto) -> bool:
    if _name(node) != "AveragePool":
        return False
    numbers = {attribute.name: list(attribute.ints) for attribute in node.attribute if attribute.ints}
    return (
        set(numbers["kernel_shape"]) == {1}
        and set(numbers.get("strides", [1])) == {1}
        and not any(numbers.get("pads", []))
    )


def _foldable(graph: onnx.GraphProto) -> Iterator[str]:
    """Name every batch normalisation of what a convolution gives to nothing else."""
    convolved = {node.output[0] for node in graph.node if _name(node) == "Conv"}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    for node in graph.node:
        if _name(node) == "BatchNormalization" and node.input[0] in convolved and readers[node.input[0]] == 1:
            yield node.name or node.output[0]
