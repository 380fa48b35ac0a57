"""A network on its device: pixels in, probabilities out.

A `lane` calls it with the rows of a batch; `loading` has a lane call it, too, before a model is READY.
Tests may put another `Network` here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime

from artifact.errors import GoldenError
from modelzoo.v1 import manifest_pb2
from server.inference import Probabilities, Rows
from server.runtime.concurrency import Runs
from server.runtime.device import Device, open_session


class Network(Protocol):
    """What a lane runs."""

    def infer(self, rows: Rows) -> Probabilities:
        """Answer one batch.

        Args:
            rows: N times uint8 ``[H, W, C]``, as the manifest says, in one array or in many; 1 to the largest
                allowed batch size of them. What is padded for the device's sake stays in here.

        Returns:
            float32 ``[N, K]``, in the order of the rows; the caller's to keep.

        Raises:
            Exception: whatever the device raises; it concerns this batch only.
        """


@runtime_checkable
class Pipelined(Network, Protocol):
    """A network that takes the next batch before the one before has ended.

    Attributes:
        depth: batches that may be on their way.
    """

    depth: int

    def start(self, rows: Rows) -> object:
        """Set a batch on its way; see `infer`.

        Returns:
            What `finish` wants.
        """

    def finish(self, started: Any) -> Probabilities:
        """Wait for the batch that was started first; see `infer`."""


# Opens a file on a device, for batches of the sizes that are allowed.
OpenNetwork = Callable[[Path, manifest_pb2.Manifest, Device, Sequence[int]], Network]


class OnnxNetwork:
    """A network in an ONNX Runtime session.

    Args:
        path: the ONNX file.
        manifest: what it claims to be.
        device: where it runs.
        batch_sizes: that are allowed. On a CUDA device, where a changed size costs a hundredfold, every batch
            is padded to the largest; elsewhere any size runs as it is.

    Attributes:
        not_captured: why it runs here on a CUDA device and not as captured graphs; empty where it should.

    Raises:
        GoldenError: the graph's input or output is not what the manifest says.
        Exception: ONNX Runtime's own, when it cannot load the file.
    """

    def __init__(
        self, path: Path, manifest: manifest_pb2.Manifest, device: Device, batch_sizes: Sequence[int]
    ) -> None:
        session = open_session(path, device)
        self._runs = Runs(session, device.threads, device.occupancy)
        self._input, self._output = signature(session, path.name, manifest)
        self.not_captured = ""
        self._padded_to = 0 if device.ordinal is None else max(batch_sizes)

    def run_with(self, options: onnxruntime.RunOptions | None) -> None:
        """Run with these options from now on, which may end a run; None for none."""
        self._runs.options = options

    def infer(self, rows: Rows) -> Probabilities:
        """Stack the rows and run them; see `Network.infer`."""
        padding = [rows[0]] * (self._padded_to - len(rows))
        images = rows if isinstance(rows, np.ndarray) and not padding else np.stack([*rows, *padding])
        probabilities: Probabilities = self._runs.run([self._output], {self._input: images})[0]
        return probabilities[: len(rows)]


def signature(
    session: onnxruntime.InferenceSession, name: str, manifest: manifest_pb2.Manifest
) -> tuple[str, str]:
    """Check that a graph is what the manifest says; give the names of its input and its output.

    Args:
        name: of the file.

    Raises:
        GoldenError: it takes or gives something else.
    """
    shape = [manifest.input.height, manifest.input.width, manifest.input.channels]
    input_, input_type, input_shape = _only(session.get_inputs())
    output, output_type, output_shape = _only(session.get_outputs())
    if (input_type, input_shape[1:]) != ("tensor(uint8)", shape):
        raise GoldenError(f"{name} takes {input_type} {input_shape}, not uint8 [N, {shape}]")
    if (output_type, output_shape[1:]) != ("tensor(float)", [manifest.label_count]):
        raise GoldenError(f"{name} gives {output_type} {output_shape}, not float [N, {manifest.label_count}]")
    return input_, output


def _only(values: Sequence[object]) -> tuple[str, str, list[object]]:
    if len(values) != 1:
        raise GoldenError(f"the graph has {len(values)} inputs or outputs where an artifact has one")
    value = values[0]
    return value.name, value.type, list(value.shape)  # type: ignore[attr-defined] # ONNX Runtime is untyped
