"""An exported graph in fewer bits: half precision for CUDA devices, 8-bit integers for CPUs.

Both conversions go from ONNX file to ONNX file, so that graphs which torch never saw can have them too.
The signature stays: uint8 images in, float32 probabilities out, any batch size. Whether the answers are
still good enough is for `gate` to say.
"""

import contextlib
import enum
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData
from onnxruntime.quantization.calibrate import EntropyCalibrater, MinMaxCalibrater, PercentileCalibrater

from artifact.errors import first_line
from export import session
from export.errors import ExportError
from export.graph import cleaning, editing, float16, tracing

CALIBRATION_IMAGES = 256  # at most; more hardly move a range
CALIBRATION_BATCH_SIZE = 4  # the histograms hold every activation of a batch at once

# Those that ONNX Runtime computes in integers on the CPU, or that only move values. Around any other, a
# pair of quantisations would cost time and accuracy and win nothing.
_INTEGER_OPERATORS = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Relu",
    "Reshape",
]


class PrecisionError(ExportError):
    """A graph cannot be had in another precision; the message says why, in one line."""


class Calibration(enum.Enum):
    """How the range of an activation is read off what it was for some images; cheapest first."""

    MINMAX = "minmax"  # from its smallest value to its largest
    PERCENTILE = "percentile"  # without the outermost 0.001 % of its values
    ENTROPY = "entropy"  # the range with the 8-bit histogram that diverges least from the real one


def to_fp16(source: Path, target: Path) -> None:
    """Write a graph in half precision.

    Normalisation, local response normalisation and softmax stay in float32.

    Raises:
        PrecisionError: ``source`` is no artifact's graph, or a weight is beyond half's range.
        OSError: ``target`` cannot be written.
    """
    model = _read(source)
    try:
        float16.to_float16(model)
    except OverflowError as error:
        raise PrecisionError(f"{source.name} does not fit half precision: {error}") from error
    _write(model, target)


def to_int8(
    source: Path, target: Path, calibration: npt.NDArray[np.uint8], method: Calibration = Calibration.MINMAX
) -> None:
    """Write a graph with 8-bit layers: uint8 activations, int8 weights with a scale for each channel.

    Weights have all 8 bits (``reduce_range`` is off). A CPU without VNNI instructions adds products in 16
    bits, which saturate; a session has to be opened as `session.on_cpu` does to answer there as elsewhere.

    Args:
        calibration: images like those to come, ``[N, H, W, C]``; of more than `CALIBRATION_IMAGES`, that
            many are taken at even distances.

    Raises:
        PrecisionError: ``source`` is no artifact's graph, or these are no images for it.
        OSError: ``target`` cannot be written.
    """
    model = _read(source)
    _name_nodes(model.graph)
    images = _picked(calibration, model.graph)
    try:
        with _quiet(), tempfile.TemporaryDirectory(dir=target.parent, prefix=".int8-") as folder:
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=_ranges(model, images, method, Path(folder)),
                nodes_to_quantize=[],
                nodes_to_exclude=[node.name for node in _unquantised(model.graph)],
                op_types_to_quantize=_INTEGER_OPERATORS,
                extra_options={},
            )
            quantized = quantizer.quantize_model()
            quantizer.model.topological_sort()  # it puts new nodes last
    except OSError:
        raise
    except Exception as error:  # the quantiser raises whatever it comes across
        raise PrecisionError(f"{source.name} cannot be quantised: {first_line(error)}") from error
    _leave_logits(quantized.graph)
    _write(quantized, target)


def best_int8(
    source: Path, target: Path, calibration: npt.NDArray[np.uint8], judge: Callable[[Path], float]
) -> Calibration:
    """Write the best of the 8-bit graphs that the methods of calibration make.

    A method that makes a graph as good as ``source`` is good enough, and the dearer ones are not tried:
    they take minutes for networks of hundreds of layers.

    Args:
        judge: how good the graph in a file is, higher is better; asked once for ``source`` and for each
            method. Among equals the cheapest method is taken.

    Returns:
        The method that was best.

    Raises:
        PrecisionError: ``source`` is no artifact's graph, or these are no images for it.
        OSError: ``target`` cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".int8-") as folder:
        candidates = {method: Path(folder) / f"{method.value}.onnx" for method in Calibration}
        scores: dict[Calibration, float] = {}
        enough = judge(source)
        for method, candidate in candidates.items():
            to_int8(source, candidate, calibration, method)
            scores[method] = judge(candidate)
            if scores[method] >= enough:
                break
        best = max(scores, key=scores.__getitem__)  # the first of equals
        candidates[best].replace(target)
    return best


def _read(path: Path) -> onnx.ModelProto:
    """Read a graph that an artifact may hold.

    Raises:
        PrecisionError: the file cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes()
        tracing.check(content)
        model = onnx.load_from_string(content)
        tracing.check_signature(model)
    except Exception as error:  # protobuf and onnx each have their own
        raise PrecisionError(f"{path.name} is not an artifact's graph: {first_line(error)}") from error
    cleaning.strip(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise PrecisionError(f"{path.name} holds a weight that is no number: {tensor.name}")
    return model


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Write a converted graph, if it still is one that an artifact may hold.

    Raises:
        PrecisionError: it is not: an operator does not know the precision.
        OSError: the file cannot be written.
    """
    editing.prune(model.graph, [tracing.OUTPUT])
    cleaning.strip(model)
    content = model.SerializeToString()
    try:
        tracing.check(content)
        tracing.check_signature(model)
    except tracing.GraphError as error:
        raise PrecisionError(f"after the conversion, {error}") from error
    path.write_bytes(content)


def _unquantised(body: onnx.GraphProto) -> Iterator[NodeProto]:
    """Return the nodes that no layer comes before: they normalise; and the one that gives probabilities."""
    after: set[str] = set()
    for node in body.node:
        if node.op_type in tracing.LAYERS or not after.isdisjoint(node.input):
            after.update(node.output)
            if tracing.OUTPUT in node.output:
                yield node
        else:
            yield node


class _Once:
    """A calibration reader of one batch."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self._batches = [{tracing.INPUT: images}, None]

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        return self._batches.pop(0)


_CALIBRATORS = {
    Calibration.MINMAX: MinMaxCalibrater,
    Calibration.PERCENTILE: PercentileCalibrater,
    Calibration.ENTROPY: EntropyCalibrater,
}


def _ranges(
    model: onnx.ModelProto, images: npt.NDArray[np.uint8], method: Calibration, folder: Path
) -> TensorsData:
    """Find the range of every activation, over some images."""
    source, augmented = folder / "source.onnx", folder / "augmented.onnx"
    source.write_bytes(model.SerializeToString())
    calibrator = _CALIBRATORS[method](source, _INTEGER_OPERATORS, str(augmented))
    calibrator.augment_graph()
    calibrator.infer_session = session.on_cpu(augmented)
    for start in range(0, len(images), CALIBRATION_BATCH_SIZE):
        calibrator.collect_data(_Once(images[start : start + CALIBRATION_BATCH_SIZE]))
    return calibrator.compute_data()


def _picked(images: npt.NDArray[np.uint8], body: onnx.GraphProto) -> npt.NDArray[np.uint8]:
    shape = tuple(dim.dim_value for dim in body.input[0].type.tensor_type.shape.dim[1:])
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
        raise PrecisionError(f"calibration wants uint8 images {shape}, not {images.dtype} {images.shape}")
    picks = np.linspace(0, len(images) - 1, min(len(images), CALIBRATION_IMAGES)).round().astype(int)
    picked: npt.NDArray[np.uint8] = images[picks]
    return picked


def _name_nodes(body: onnx.GraphProto) -> None:
    for number, node in enumerate(body.node):
        node.name = f"{node.op_type}_{number}"


def _leave_logits(body: onnx.GraphProto) -> None:
    """Take the quantisation of the logits away: eight bits of them are few."""
    makers = {name: node for node in body.node for name in node.output}
    last_layer = max(
        (place for place, node in enumerate(body.node) if node.op_type in tracing.LAYERS), default=0
    )
    for place, node in enumerate(body.node):
        # A sigmoid before the last layer is an activation inside the network.
        if node.op_type == "Softmax" or (node.op_type == "Sigmoid" and place > last_layer):
            maker = makers.get(node.input[0])
            if maker is not None and maker.op_type == "DequantizeLinear":
                node.input[0] = makers[maker.input[0]].input[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's prints and log lines to itself, and its handler off the root logger."""
    handler, disabled = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(handler)
    logging.disable()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
