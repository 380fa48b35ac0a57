"""Any image classifier in ONNX, in the wrapping that every artifact has.

Uint8 pixels go in and probabilities come out, of any number of images. The result is held against the file
as it came: one image at a time there, several here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
from onnx import helper

from artifact import golden
from artifact.manifest import MAX_LABELS
from artifact.pictures import Pixels
from export.errors import one_line
from export.graph import cleaning, editing, tracing
from export.graph.verification import Run
from export.onnx_import import presets, wrapping
from export.onnx_import.onnx_file import STANDARD, Array, OnnxImportError, Session, read, reason
from export.onnx_import.signature import Images, ImportRequest, images_of, output_of
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec

__all__ = ["ImportRequest", "OnnxImportError", "Wrapped", "wrap"]

_LOWEST_OPSET = 13  # from which Softmax is over one axis
_BATCHES = (slice(0, 1), slice(1, 3), slice(3, 6))  # of the probes: one, two and three pictures
_TOLERANCE_RATIO = 1e-4  # of the largest score; another size of batch is summed up in another order
_SUM_TOLERANCE = 1e-3  # of probabilities, around 1
_NO_ACTIVATION = frozenset(("Flatten", "Identity", "Reshape", "Squeeze"))

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wrapped:
    """A file that was wrapped, and what is known of it.

    Attributes:
        input_spec: the pixels that it takes.
        labels: K texts.
        parameters: numbers in its weights.
        channel_order: in which the network behind the wrapping takes them.
        preprocessing: from a picture to the pixels that it takes.
        notes: what of that was read from the file or assumed, one sentence each.
        changes: what differs from the file as it came, one sentence each.
        original: the file as it came, in our signature: uint8 ``[N, H, W, C]`` to float32 ``[N, K]``, one
            image at a time, normalised and made probabilities by NumPy.
    """

    input_spec: InputSpec
    labels: tuple[str, ...]
    parameters: int
    channel_order: "manifest_pb2.ChannelOrder.ValueType"
    preprocessing: manifest_pb2.Preprocessing
    notes: tuple[str, ...]
    changes: tuple[str, ...]
    original: Run

    @property
    def label_count(self) -> int:
        """Return K."""
        return len(self.labels)


class _Original:
    """The file as it came, run one image at a time."""

    def __init__(self, model: onnx.ModelProto, images: Images, output: str) -> None:
        self._images = images
        self._session = Session(model)
        names = [name for name, _ in self._session.outputs]
        self._position = names.index(output)
        if (kind := self._session.outputs[self._position][1]) != "tensor(float)":
            raise OnnxImportError(f"its output {output} is {kind}, not float scores")

    def answer(self, image: Pixels) -> Floats:
        """Return the file's output for uint8 ``[1, H, W, C]``, as it comes."""
        feeds = {self._images.name: self._images.prepared(image)}
        return np.asarray(self._session.run(feeds)[self._position], np.float32)

    def scores(self, images: Pixels) -> Floats:
        """Return scores ``[N, K]`` for uint8 ``[N, H, W, C]``."""
        answers = [self.answer(images[row : row + 1]) for row in range(len(images))]
        return np.stack([answer.reshape(-1) for answer in answers])  # [N, K]


def wrap(source: Path, target: Path, request: ImportRequest) -> Wrapped:
    """Wrap the classifier in ``source`` and write it to ``target``, if it is proved to answer the same.

    Raises:
        OnnxImportError: it is no image classifier that can be wrapped; nothing is written.
        OSError: ``target`` cannot be written.
    """
    model = read(source)
    request, notes = presets.completed(request, model)
    images, output = images_of(model, request), output_of(model, request)
    preprocessing = presets.described(request, images.spec)
    original = _Original(model, images, output)
    pixels = _probes(images.spec)
    shape = original.answer(pixels[:1]).shape
    labels = _labels(shape, request)
    expected = original.scores(pixels)  # [N, K]
    if not np.isfinite(expected).all():
        raise OnnxImportError("its scores are infinite, or no numbers")
    softmax = _needs_softmax(request, expected, _activation(model.graph, output))

    changes = [f"takes uint8 [N, H, W, C] and normalises inside the graph; the file took {images}"]
    changes += _modernise(model)
    if others := [value.name for value in model.graph.output if value.name != output]:
        changes.append(one_line(f"without the file's other outputs: {', '.join(others)}"))
    editing.prune(model.graph, [output])
    if output not in editing.dependents(model.graph, images.name):
        raise OnnxImportError("its scores do not depend on the picture")
    parameters = editing.count_weights(model.graph)
    if images.batch_is_fixed:
        reshapes = editing.free_batch(model.graph, images.name)
        changes.append(f"any number of images; the file took one ({reshapes} reshapes were rewritten)")
    if softmax:
        changes.append("a softmax makes probabilities of the file's scores")
    wrapping.put_around(model, images, output, shape, softmax)
    _prove(model, pixels, expected, softmax)
    cleaning.strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise OnnxImportError(f"with its wrapping it is no valid ONNX: {reason(error)}") from error
    target.write_bytes(model.SerializeToString())
    return Wrapped(
        input_spec=images.spec,
        labels=labels,
        parameters=parameters,
        channel_order=(manifest_pb2.CHANNEL_ORDER_BGR if images.bgr else manifest_pb2.CHANNEL_ORDER_RGB),
        preprocessing=preprocessing,
        notes=notes,
        changes=tuple(changes),
        original=lambda given: _activated(original.scores(given), softmax),
    )


def _probes(spec: InputSpec) -> Pixels:
    """Make pictures that a network can tell apart: noise, gradients, coarse blocks; dark and bright."""
    random = np.random.default_rng(0)
    rows, columns = np.ogrid[: spec.height, : spec.width]
    palette = random.integers(0, 256, (5, 5, spec.channels), np.uint8)
    blocks = palette[rows * 5 // spec.height, columns * 5 // spec.width]  # [H, W, C]
    noise = random.integers(0, 256, blocks.shape, np.uint8)
    down, across = (
        np.broadcast_to((places * 255 // side_px).astype(np.uint8)[..., np.newaxis], blocks.shape)
        for places, side_px in ((rows, spec.height), (columns, spec.width))
    )
    return np.stack([noise, down, blocks, noise // 4, 255 - across, 255 - blocks // 3])  # [N, H, W, C]


def _labels(shape: tuple[int, ...], request: ImportRequest) -> tuple[str, ...]:
    """Return K labels, or refuse what is not one row of K scores."""
    count = int(np.prod(shape))
    if len(shape) < 2 or shape[0] != 1 or max(shape) != count:
        raise OnnxImportError(f"it answers one picture with {list(shape)}; a classifier answers [1, K]")
    if not 2 <= count <= MAX_LABELS:
        raise OnnxImportError(f"it has {count} outputs; a classifier has 2 to {MAX_LABELS:,}")
    labels = request.labels or tuple(str(index) for index in range(count))
    if len(labels) != count:
        raise OnnxImportError(f"it has {count} outputs, but there are {len(labels)} labels")
    return labels


def _activation(found: onnx.GraphProto, output: str) -> str:
    """Name the operator that makes the output, not counting what only gives it another shape."""
    makers = {name: node for node in found.node for name in node.output}
    while output in makers and makers[output].op_type in _NO_ACTIVATION:
        output = makers[output].input[0]
    return makers[output].op_type if output in makers else ""


def _needs_softmax(request: ImportRequest, scores: Floats, activation: str) -> bool:
    in_range = bool((scores >= -_SUM_TOLERANCE).all() and (scores <= 1 + _SUM_TOLERANCE).all())
    if request.activation == "none" and not in_range:
        raise OnnxImportError("its scores are no probabilities, some are not in 0..1: they need a softmax")
    if request.activation != "auto":
        return request.activation == "softmax"
    if in_range and bool((np.abs(scores.sum(axis=1) - 1) < _SUM_TOLERANCE).all()):
        return False
    if activation == "Sigmoid":
        raise OnnxImportError(
            "it ends in a Sigmoid, one probability a label: say whether softmax or no activation follows"
        )
    return True


def _activated(scores: Floats, softmax: bool) -> Floats:
    if not softmax:
        return scores
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)  # [N, K]
    return probabilities


def _modernise(model: onnx.ModelProto) -> list[str]:
    """Bring a model to an opset that the wrapping is written for; tell what changed."""
    for node in model.graph.node:
        node.domain = ""
    before = max((opset.version for opset in model.opset_import if opset.domain in STANDARD), default=0)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", before))
    if before >= _LOWEST_OPSET:
        return []
    try:
        model.CopyFrom(onnx.version_converter.convert_version(model, tracing.OPSET))
    except Exception as error:
        raise OnnxImportError(
            f"its opset {before} cannot be made {tracing.OPSET}: {reason(error)}"
        ) from error
    return [f"opset {tracing.OPSET}; the file had {before}"]


def _prove(model: onnx.ModelProto, pixels: Pixels, expected: Floats, softmax: bool) -> None:
    """Hold the wrapped model against the file's answers to single pictures.

    Raises:
        OnnxImportError: it cannot be run, or answers something else.
    """
    wanted = {tracing.OUTPUT: _activated(expected, softmax)}  # [N, K] each
    allowed = {tracing.OUTPUT: golden.TOLERANCES["fp32"][golden.CPU_PROVIDER]}
    if softmax:  # the scores too: probabilities near 0 and 1 would hide a difference
        wanted[wrapping.SCORES] = expected
        allowed[wrapping.SCORES] = _TOLERANCE_RATIO * float(np.abs(expected).max())
        model.graph.output.append(wrapping.row(wrapping.SCORES, expected.shape[1]))
    try:
        session = Session(model)
    except OnnxImportError as error:
        raise OnnxImportError(f"wrapped, and with a free batch: {error}") from error
    for rows in _BATCHES:
        count = rows.stop - rows.start
        try:
            answers = session.run({tracing.INPUT: pixels[rows]})
            for (name, _), answer in zip(session.outputs, answers, strict=True):
                _compare(wanted[name][rows], answer, allowed[name])
        except OnnxImportError as error:
            raise OnnxImportError(
                f"wrapped, it does not answer a batch of {count} as the file answers single pictures: {error}"
            ) from error
    del model.graph.output[1:]


def _compare(expected: Floats, answer: Array, tolerance: float) -> None:
    if answer.shape != expected.shape:
        raise OnnxImportError(f"it gives {list(answer.shape)}, not {list(expected.shape)}")
    difference = float(np.abs(expected - answer).max())
    if not difference <= tolerance:  # nor NaN
        raise OnnxImportError(f"it is off by {difference:.2g} (allowed {tolerance:.2g})")
