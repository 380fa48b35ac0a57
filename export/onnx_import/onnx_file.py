"""An ONNX file of unknown origin.

It is taken for hostile: what could open other files, run other code or never end is refused before ONNX
Runtime sees it, and what it may cost to run is bounded. A few bytes of graph can ask for gigabytes.
"""

import hashlib
import re
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
from google.protobuf.message import DecodeError

from artifact import execution
from artifact.golden import CPU_PROVIDER
from export import memory, session
from export.errors import ExportError

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
_MAX_NODES = 100_000  # ResNet-152 has 500; functions that call functions can grow without bound
_MAX_FUNCTIONS = 500
STANDARD = ("", "ai.onnx")
_CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
# What loading and running may take beyond the process's memory so far: the weights some times over
# (parsed, copied, packed for the kernels), and room for a few images of the largest networks.
_MEMORY_BYTES = 4 << 30
_MEMORY_FILES = 5
_RUN_S = 120.0  # three images; VGG-19 takes one second
# Where in its own sources a library gave up, and that it did.
_PLACE = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(/\S+:\d+:? .* failed: )?")

Array = npt.NDArray[Any]


class OnnxImportError(ExportError):
    """The model is not taken; the message says why, in one line."""


def read(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a model; nothing of what it holds is checked but that it is not too much.

    Returns:
        The model, and the SHA-256 of the file as it was read.

    Raises:
        OnnxImportError: the file cannot be read, is no ONNX model, or is too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OnnxImportError(f"{path.name} is not a regular file")
        if found.st_size > MAX_BYTES:
            raise OnnxImportError(f"{path.name} is larger than 2 GiB")
        content = path.read_bytes()
    except OSError as error:
        raise OnnxImportError(f"{path.name} cannot be read: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        with memory.bounded(
            _MEMORY_BYTES + _MEMORY_FILES * len(content)
        ):  # two bytes make a node of hundreds
            model.ParseFromString(content)
    except MemoryError as error:
        raise OnnxImportError(f"{path.name} has more nodes than memory allows") from error
    except DecodeError as error:
        raise OnnxImportError(f"{path.name} is no ONNX file, or is truncated") from error
    if len(model.graph.node) > _MAX_NODES:
        raise OnnxImportError(
            f"{path.name} has {len(model.graph.node):,} nodes; at most {_MAX_NODES:,} are taken"
        )
    if not model.graph.node or not model.opset_import:
        raise OnnxImportError(f"{path.name} is no ONNX file: it has no graph")
    return model, hashlib.sha256(content).hexdigest()


class Session:
    """A model in ONNX Runtime, on the CPU, with bounded memory and time.

    Raises:
        OnnxImportError: it cannot be loaded.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        content = model.SerializeToString()
        self._memory_bytes = _MEMORY_BYTES + _MEMORY_FILES * len(content)
        try:
            with memory.bounded(self._memory_bytes):
                self._session = onnxruntime.InferenceSession(
                    content, session.options(), providers=[CPU_PROVIDER], enable_fallback=0
                )
        except Exception as error:
            raise OnnxImportError(f"ONNX Runtime cannot load it: {reason(error)}") from error

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Return each output's name and type, in ONNX Runtime's words."""
        return [(output.name, output.type) for output in self._session.get_outputs()]

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """Run a batch.

        Raises:
            OnnxImportError: it cannot be run, or takes too much memory or time.
        """
        options = onnxruntime.RunOptions()
        options.log_severity_level = execution.LOG_SEVERITY_FATAL
        alarm = threading.Timer(_RUN_S, setattr, (options, "terminate", True))
        alarm.daemon = True
        alarm.start()
        try:
            with memory.bounded(self._memory_bytes):
                answers: list[Array] = self._session.run(None, feeds, options)
        except Exception as error:
            raise OnnxImportError(f"ONNX Runtime cannot run it: {reason(error)}") from error
        finally:
            alarm.cancel()
        return answers


def reason(error: Exception) -> str:
    """Say it in one line."""
    lines = [line.strip() for line in _PLACE.sub("", str(error)).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]


def check_operators(model: onnx.ModelProto) -> None:
    """Insist on standard operators and the model's own functions, without control flow or sparse tensors.

    Raises:
        OnnxImportError: there is something else, in the graph or in functions.
    """
    if model.graph.sparse_initializer:
        raise OnnxImportError("it holds a sparse tensor, which no artifact may")
    own = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if node.op_type in _CONTROL_FLOW:
            raise OnnxImportError(f"it holds control flow ({node.op_type})")
        if node.domain not in STANDARD and (node.domain, node.op_type) not in own:
            raise OnnxImportError(f"{node.op_type} of {node.domain} is no standard operator")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise OnnxImportError(f"it holds a graph within the graph ({node.op_type})")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise OnnxImportError(f"it holds a sparse tensor ({node.op_type}), which no artifact may")


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [*model.graph.node, *(node for function in model.functions for node in function.node)]


def tensors_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List every tensor of a model that `check_operators` passed: of weights, nodes and functions."""
    tensors = list(model.graph.initializer)
    for attribute in (attribute for node in _nodes(model) for attribute in node.attribute):
        tensors += [attribute.t, *attribute.tensors] if attribute.HasField("t") else attribute.tensors
    return tensors


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the functions in place of their calls.

    Raises:
        OnnxImportError: there would be too many nodes, or a function is not what a model may hold.
    """
    if not model.functions:
        return model
    if len(model.functions) > _MAX_FUNCTIONS:
        raise OnnxImportError(f"it has {len(model.functions)} functions; at most {_MAX_FUNCTIONS} are taken")
    sizes: dict[tuple[str, str], int] = {}
    bodies = {(function.domain, function.name): function.node for function in model.functions}

    def size(nodes: Iterable[onnx.NodeProto], above: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in above:
                raise OnnxImportError(f"its function {node.op_type} calls itself")
            if called in bodies and called not in sizes:
                sizes[called] = size(bodies[called], above | {called})
            total += sizes.get(called, 1)
        return total

    if (nodes := size(model.graph.node, frozenset())) > _MAX_NODES:
        raise OnnxImportError(f"its functions make {nodes:,} nodes; at most {_MAX_NODES:,} are taken")
    try:
        flat = onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise OnnxImportError(f"its functions cannot be put in place: {reason(error)}") from error
    if flat.functions or any(node.domain not in STANDARD for node in flat.graph.node):
        raise OnnxImportError("its functions are of another opset than its graph")
    check_operators(flat)
    return flat
