"""A network on its device: pixels in, probabilities out.

A `lane` calls it with the rows of a batch; nobody else does. Tests may put another `Network` here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from artifact.errors import GoldenError
from artifact.pictures import Pixels
from modelzoo.v1 import manifest_pb2
from server.device import Device, open_session

Probabilities = npt.NDArray[np.float32]


class Network(Protocol):
    """What a lane runs."""

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        """Answer one batch.

        Args:
            rows: N times uint8 ``[H, W, C]``, as the manifest says; 1 to the largest allowed batch size of
                them. What is padded for the device's sake stays in here.

        Returns:
            float32 ``[N, K]``, in the order of the rows; the caller's to keep.

        Raises:
            Exception: whatever the device raises; it concerns this batch only.
        """


OpenNetwork = Callable[[Path, manifest_pb2.Manifest, Device], Network]


class OnnxNetwork:
    """A network in an ONNX Runtime session.

    Args:
        path: the ONNX file.
        manifest: what it claims to be.
        device: where it runs.

    Raises:
        GoldenError: the graph's input or output is not what the manifest says.
        Exception: ONNX Runtime's own, when it cannot load the file.
    """

    def __init__(self, path: Path, manifest: manifest_pb2.Manifest, device: Device) -> None:
        self._session = open_session(path, device)
        shape = [manifest.input.height, manifest.input.width, manifest.input.channels]
        self._input, input_type, input_shape = _only(self._session.get_inputs())
        self._output, output_type, output_shape = _only(self._session.get_outputs())
        if (input_type, input_shape[1:]) != ("tensor(uint8)", shape):
            raise GoldenError(f"{path.name} takes {input_type} {input_shape}, not uint8 [N, {shape}]")
        if (output_type, output_shape[1:]) != ("tensor(float)", [manifest.label_count]):
            raise GoldenError(
                f"{path.name} gives {output_type} {output_shape}, not float [N, {manifest.label_count}]"
            )

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        """Stack the rows and run them; see `Network.infer`."""
        probabilities: Probabilities = self._session.run([self._output], {self._input: np.stack(rows)})[0]
        return probabilities


def _only(values: Sequence[object]) -> tuple[str, str, list[object]]:
    if len(values) != 1:
        raise GoldenError(f"the graph has {len(values)} inputs or outputs where an artifact has one")
    value = values[0]
    return value.name, value.type, list(value.shape)  # type: ignore[attr-defined] # ONNX Runtime is untyped
