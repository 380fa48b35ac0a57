"""What running a graph takes, worked out from its shapes before ONNX Runtime sees it.

A few bytes of graph can ask for gigabytes or run for ever. A graph of the operators below is bounded by its
own sum; any other one has to survive a trial in a process of its own first (`trial`).
"""

from dataclasses import dataclass, field
from pathlib import Path

from artifact.errors import UnsafeGraphError
from server.repository import onnx_reader
from server.repository.onnx_reader import Graph
from server.repository.shapes import Shape, UnknownError, Value, constant, infer

MAX_MACS = 1e12  # multiply-accumulates of one image; VGG-19, the largest of the catalog, has 2e10


@dataclass(frozen=True)
class Cost:
    """What a graph takes.

    Attributes:
        weights_bytes: of all constants.
        peak_bytes: of the values that are kept at the same time, for one batch.
        macs: multiply-accumulates of the batch; of other operators, elements.
    """

    weights_bytes: int
    peak_bytes: int
    macs: int


def require_bounded(path: Path, input_shape: Shape, max_bytes: int) -> bool:
    """Require that a graph takes no more than allowed, as far as its shapes are known.

    Args:
        input_shape: of the largest batch, ``[N, H, W, C]``.
        max_bytes: of weights and values together.

    Returns:
        Whether the shapes are known; where not, only a trial can.

    Raises:
        UnsafeGraphError: it takes more, or is no artifact's graph.
    """
    graph = onnx_reader.read(path)
    if (weights_bytes := graph.weights_bytes) > max_bytes:
        raise UnsafeGraphError(
            f"{path.name} has weights of {weights_bytes} bytes; "
            f"at most {max_bytes} allowed (setting max_model_bytes)"
        )
    found = cost(graph, input_shape)
    if found is None:
        return False
    if (total_bytes := found.weights_bytes + found.peak_bytes) > max_bytes:
        raise UnsafeGraphError(
            f"{path.name} takes {total_bytes} bytes for a batch of {input_shape[0]}; "
            f"at most {max_bytes} allowed (setting max_model_bytes)"
        )
    if (macs := found.macs / input_shape[0]) > MAX_MACS:
        raise UnsafeGraphError(
            f"{path.name} takes {macs:.1e} multiply-accumulates an image; at most {MAX_MACS:.0e} allowed"
        )
    return True


def cost(graph: Graph, input_shape: Shape) -> Cost | None:
    """Work out what a graph takes; None where it holds an operator or a shape that is not known here."""
    free = [name for name in graph.inputs if name not in graph.tensors]
    if len(free) != 1:
        return None
    try:
        return _Walk(graph, free[0], input_shape).cost()
    except (UnknownError, LookupError, ValueError, ArithmeticError):
        return None  # ONNX Runtime may refuse it, or know better


@dataclass
class _Walk:
    """Goes through the nodes, with the values that are kept."""

    graph: Graph
    input: str
    input_shape: Shape
    values: dict[str, Value] = field(default_factory=dict)

    def cost(self) -> Cost:
        self.values = {name: constant(tensor) for name, tensor in self.graph.tensors.items()}
        self.values[self.input] = Value(self.input_shape, 1)
        last_use = {name: at for at, node in enumerate(self.graph.nodes) for name in node.inputs}
        last_use |= dict.fromkeys(self.graph.outputs, len(self.graph.nodes))
        live_bytes = peak_bytes = self.values[self.input].size_bytes
        macs = 0
        kept = {self.input}
        for at, node in enumerate(self.graph.nodes):
            outputs, work = infer(node, [self.values[name] for name in node.inputs if name])
            macs += work
            for index, name in enumerate(node.outputs):
                # Indices and masks beside a first output have its shape, and 8 bytes an element at the most.
                value = outputs if index == 0 else Value(outputs.shape, 8)
                self.values[name] = value
                live_bytes += value.size_bytes
                kept.add(name)
            peak_bytes = max(peak_bytes, live_bytes)
            for name in {*node.inputs, *node.outputs} & kept:
                if last_use.get(name, at) <= at:
                    live_bytes -= self.values[name].size_bytes
                    kept.discard(name)
        return Cost(self.graph.weights_bytes, peak_bytes, macs)
