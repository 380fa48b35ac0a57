"""Any image classifier in ONNX, in the wrapping that every artifact has.

Uint8 pixels go in and probabilities come out, of any number of images. The result is held against the file
as it came: one image at a time there, several here.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from artifact import golden
from artifact.manifest import MAX_LABELS
from artifact.pictures import Pixels
from export.errors import one_line
from export.graph import cleaning, editing, probes, tracing
from export.graph.verification import Run
from export.onnx_import import activation, external_data, metadata, normal_form, onnx_file, presets, wrapping
from export.onnx_import.activation import Activation, Floats
from export.onnx_import.onnx_file import MAX_BYTES, Array, OnnxImportError, Session, reason
from export.onnx_import.signature import Images, ImportRequest, images_of, output_of, sizes_are_given
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec

__all__ = ["ImportRequest", "OnnxImportError", "Wrapped", "wrap"]

_PROBES = 6
_BATCHES = (slice(0, 1), slice(1, 3), slice(3, _PROBES))  # one, two and three pictures
_TOLERANCE_RATIO = 1e-4  # of the largest score; another size of batch is summed up in another order
_FLOATS = {  # ONNX Runtime's names of what scores may be
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
}
_BINARY_LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Wrapped:
    """A file that was wrapped, and what is known of it.

    Attributes:
        input_spec: the pixels that it takes.
        labels: K texts.
        parameters: numbers in its weights.
        weights: where they came from: the file's name and hash, and those of the files beside it.
        multi_label: the probabilities of a picture need not sum to 1.
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
    weights: manifest_pb2.Weights
    multi_label: bool
    channel_order: "manifest_pb2.ChannelOrder.ValueType"
    preprocessing: manifest_pb2.Preprocessing
    notes: tuple[str, ...]
    changes: tuple[str, ...]
    original: Run


class _Original:
    """The file as it came, run one image at a time.

    Attributes:
        kind: type of its scores, in ONNX's numbering.
    """

    def __init__(self, model: onnx.ModelProto, images: Images, output: str) -> None:
        self._images = images
        self._session = Session(model)
        names = [name for name, _ in self._session.outputs]
        self._position = names.index(output)
        named = self._session.outputs[self._position][1]
        if named not in _FLOATS:
            raise OnnxImportError(f"its output {output} is {named}, not float scores")
        self.kind = _FLOATS[named]

    def answer(self, image: Pixels) -> Floats:
        """Return the file's output for uint8 ``[1, H, W, C]``, as it comes."""
        feeds = {self._images.name: self._images.prepared(image)}
        return np.asarray(self._session.run(feeds)[self._position], np.float32)

    def scores(self, images: Pixels) -> Floats:
        """Return scores ``[N, S]`` for uint8 ``[N, H, W, C]``."""
        answers = [self.answer(images[row : row + 1]) for row in range(len(images))]
        return np.stack([answer.reshape(-1) for answer in answers])  # [N, S]


def wrap(source: Path, target: Path, request: ImportRequest) -> Wrapped:
    """Wrap the classifier in ``source`` and write it to ``target``, if it is proved to answer the same.

    Raises:
        OnnxImportError: it is no image classifier that can be wrapped; nothing is written.
        OSError: ``target`` cannot be written.
    """
    model, output, changes, weights = _read(source, request)
    request, notes = presets.completed(request, model)
    is_sized = sizes_are_given(model)
    images = images_of(model, request)
    normal_form.free_axes(model, images)
    preprocessing = presets.described(request, images.spec)
    as_it_came = onnx.ModelProto()
    as_it_came.CopyFrom(model)
    narrow = images if normal_form.widen(model) else None
    if images.kind == TensorProto.FLOAT16:
        images = replace(images, kind=TensorProto.FLOAT)
    pixels = probes.pictures(images.spec.height, images.spec.width, images.spec.channels, _PROBES)
    try:
        original = _Original(model, images, output)
        shape = original.answer(pixels[:1]).shape
    except OnnxImportError as error:
        if is_sized:
            raise
        size = f"{images.spec.height}x{images.spec.width}"
        raise OnnxImportError(
            f"it leaves its size free, and yet does not run at {size}: say with --input HxW what its maker "
            f"ran it at ({error})"
        ) from error
    _require_scores(shape)
    expected = original.scores(pixels)  # [N, S]
    if not np.isfinite(expected).all():
        raise OnnxImportError("its scores are infinite, or no numbers")
    chosen = activation.choose(request.activation, expected, activation.maker_of(model.graph, output))
    labels, label_notes = _labels(chosen, request, model)

    taken = narrow or images
    changes.insert(0, f"takes uint8 [N, H, W, C] and normalises inside the graph; the file took {taken}")
    if narrow is not None:
        changes.append(_widened(_Original(as_it_came, narrow, output).scores(pixels), expected, chosen))
    changes += [*label_notes, *normal_form.modernise(model, shape, original.kind)]
    if output not in editing.dependents(model.graph, images.name):
        raise OnnxImportError("its scores do not depend on the picture")
    if (parameters := editing.count_weights(model.graph)) == 0:
        raise OnnxImportError("it holds no weights; a classifier has some")
    if images.batch_is_fixed:
        reshapes = editing.free_batch(model.graph, images.name)
        changes.append(f"any number of images; the file took one ({reshapes} reshapes were rewritten)")
    changes += chosen.changes
    wrapping.put_around(model, images, output, shape, original.kind, chosen)
    _prove(model, pixels, expected, chosen)
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
        weights=weights,
        multi_label=chosen.multi_label,
        channel_order=(manifest_pb2.CHANNEL_ORDER_BGR if images.bgr else manifest_pb2.CHANNEL_ORDER_RGB),
        preprocessing=preprocessing,
        notes=notes,
        changes=tuple(changes),
        original=lambda given: chosen.applied(original.scores(given)),
    )


class _Read(NamedTuple):
    """A file, read as far as its scores need it, all of it that could do harm refused.

    Attributes:
        model: of standard operators only, nodes sorted, functions put in place, its weights with it.
        output: name of the scores.
        changes: what differs from the file, one sentence each.
        weights: where they came from.
    """

    model: onnx.ModelProto
    output: str
    changes: list[str]
    weights: manifest_pb2.Weights


def _read(source: Path, request: ImportRequest) -> _Read:
    model, sha256 = onnx_file.read(source)
    output = output_of(model, request)
    changes = normal_form.reduce(model, output)
    onnx_file.check_operators(model)
    room_bytes = MAX_BYTES - model.ByteSize()
    files = external_data.embed(onnx_file.tensors_of(model), source.parent, room_bytes)
    if files:
        names = ", ".join(file.name for file in files)
        changes.append(one_line(f"one file; its weights were in {names}"))
    weights = manifest_pb2.Weights(
        origin=manifest_pb2.ORIGIN_IMPORTED, source=source.name, sha256=sha256, data_files=files
    )
    return _Read(onnx_file.inlined(model), output, changes, weights)


def _require_scores(shape: tuple[int, ...]) -> None:
    """Refuse what is not one row of scores for one picture."""
    count = int(np.prod(shape))
    if not shape or shape[0] != 1 or max(shape) != count:
        raise OnnxImportError(f"it answers one picture with {list(shape)}; a classifier answers [1, K]")
    if not 1 <= count <= MAX_LABELS:
        raise OnnxImportError(f"it has {count} outputs; a classifier has 1 to {MAX_LABELS:,}")


def _widened(half: Floats, full: Floats, chosen: Activation) -> str:
    """Hold scores of a network in float16 against those of the same in float32, and say how far they are.

    Raises:
        OnnxImportError: too far.
    """
    allowed = golden.TOLERANCES["fp16"][golden.CPU_PROVIDER]
    difference = float(np.abs(chosen.applied(half) - chosen.applied(full)).max())
    if not difference <= allowed:
        raise OnnxImportError(
            f"in float32 its probabilities are off by {difference:.2g} (allowed {allowed:.2g}) from those "
            "that it gives in float16"
        )
    return f"computes in float32; the file, in float16, gives probabilities up to {difference:.1g} from these"


def _labels(
    chosen: Activation, request: ImportRequest, model: onnx.ModelProto
) -> tuple[tuple[str, ...], list[str]]:
    """Return K labels, given or the file's or plain ones, and what is to be said of the file's."""
    count = chosen.label_count
    if request.labels is not None:
        if len(request.labels) != count:
            two = ", which need two labels: the negative and the positive" if chosen.is_binary else ""
            raise OnnxImportError(
                f"it has {chosen.score_count} outputs{two}, but there are {len(request.labels)} labels"
            )
        return request.labels, []
    found, notes = metadata.labels_of(model, count)
    if found is not None:
        return found, notes
    return _BINARY_LABELS if chosen.is_binary else tuple(map(str, range(count))), notes


def _prove(model: onnx.ModelProto, pixels: Pixels, expected: Floats, chosen: Activation) -> None:
    """Hold the wrapped model against the file's answers to single pictures.

    Raises:
        OnnxImportError: it cannot be run, or answers something else.
    """
    wanted = {tracing.OUTPUT: chosen.applied(expected)}  # [N, K]
    allowed = {tracing.OUTPUT: golden.TOLERANCES["fp32"][golden.CPU_PROVIDER]}
    if chosen.operator:  # the scores too: probabilities near 0 and 1 would hide a difference
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
