"""A session on a CUDA device that captures each batch size as a CUDA graph, and replays it."""

from pathlib import Path

import numpy as np
import onnxruntime

from modelzoo.v1 import manifest_pb2
from server.runtime.cuda import Cuda
from server.runtime.device import Device, open_session
from server.runtime.network import signature


class OnnxGraphs:
    """A `pipelined.GraphSession` of ONNX Runtime.

    Args:
        path: the ONNX file.
        manifest: what it claims to be.
        device: a CUDA device.

    Raises:
        GoldenError: the graph's input or output is not what the manifest says.
        DeviceError: the device gives no stream.
        Exception: ONNX Runtime's own, when it cannot load the file.
    """

    def __init__(self, path: Path, manifest: manifest_pb2.Manifest, device: Device, cuda: Cuda) -> None:
        self.stream = cuda.stream()
        self._device = device
        self._session = open_session(
            path, device, {"enable_cuda_graph": "1", "user_compute_stream": str(self.stream)}
        )
        self._input, self._output = signature(self._session, path.name, manifest)

    def bind(self, rows: tuple[int, ...], answers: tuple[int, ...], graph_id: int) -> "Binding":
        """See `pipelined.GraphSession`."""
        device_rows, device_answers = (
            onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, "cuda", self._device.ordinal)
            for shape, kind in ((rows, np.uint8), (answers, np.float32))
        )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, device_rows)
        binding.bind_ortvalue_output(self._output, device_answers)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        # Else every run would wait for the device; what wants the answers waits for their event.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return Binding(self._session, binding, options, device_rows, device_answers)


class Binding:
    """A `pipelined.Bound` of ONNX Runtime."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        binding: onnxruntime.IOBinding,
        options: onnxruntime.RunOptions,
        rows: onnxruntime.OrtValue,
        answers: onnxruntime.OrtValue,
    ) -> None:
        self._session = session
        self._binding = binding
        self._options = options
        self._values = (rows, answers)  # keeps their memory
        self.rows: int = rows.data_ptr()
        self.answers: int = answers.data_ptr()

    def run(self) -> None:
        """See `pipelined.Bound`."""
        self._session.run_with_iobinding(self._binding, self._options)
