"""What an ONNX file of unknown origin takes and gives: its one picture, its one row of scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from artifact.manifest import MAX_SIDE_PX
from artifact.pictures import Pixels
from export.graph import editing
from export.onnx_import.activation import Choice
from export.onnx_import.onnx_file import OnnxImportError
from zoo.spec import InputSpec

_CHANNELS = (1, 3)
TO_NCHW = (0, 3, 1, 2)

_SCORES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

Sides = tuple[int | None, ...]  # None where the file leaves one free


@dataclass(frozen=True)
class ImportRequest:
    """What a file does not say of itself.

    Attributes:
        layout: order of the input's axes; ``auto`` looks which one is 1 or 3.
        height: in pixels, where the file leaves it free.
        width: in pixels, where the file leaves it free.
        activation: what makes probabilities of the scores; ``auto`` looks whether they are some. An
            activation that the file ends in is not applied twice. After a softmax the probabilities of a
            picture sum to 1; after a sigmoid each label has its own.
        output: name of the scores, where the file has several outputs.
        labels: K texts; of a file with one output two, the negative first. When None, those that the file
            names, or the numbers from 0.
        mean: subtracted from each scaled value, a number for all channels or one for each, in the order in
            which the network takes them; 0 when None.
        std: what each channel is then divided by, in the same order; 1 when None.
        scale: what each value 0..255 is multiplied by first, in the same order; 1/255 when None. 1 gives a
            network 0..255.
        channel_order: in which the network takes three channels, ``rgb`` or ``bgr``.
        preset: a library's preprocessing, a key of `presets.PRESETS`, for what is None here.
        resize_px: length that the shorter side of a picture is resized to before the crop; or, of one that is
            stretched, the length of both sides, or height and width.
        crop_ratio: the input's side by that length, where ``resize_px`` is None.
        resize_mode: a key of `presets.RESIZE_MODES`.
        fill: colour beside a letterbox or a line, ``#rrggbb``.
        interpolation: a key of `presets.INTERPOLATIONS`.
        background: colour that transparent pictures are composited on, ``#rrggbb``.
        scaled_decoding: large JPEG files may be decoded at a part of their size.
    """

    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    height: int | None = None
    width: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    activation: Choice = "auto"
    output: str | None = None
    labels: tuple[str, ...] | None = None
    scale: tuple[float, ...] | None = None
    channel_order: str | None = None
    preset: str | None = None
    resize_px: tuple[int, ...] | None = None
    crop_ratio: float | None = None
    resize_mode: str | None = None
    fill: str | None = None
    interpolation: str | None = None
    background: str | None = None
    scaled_decoding: bool = False


@dataclass(frozen=True)
class Images:
    """The input of a file as it came.

    Attributes:
        kind: type of its numbers, in ONNX's numbering; of uint8 it normalises by itself.
        channels_first: its layout is NCHW; else NHWC.
        batch_is_fixed: at one image.
        bgr: it takes blue, green, red; else red, green, blue.
        spec: size and normalisation, as an artifact says them: of red, green, blue.
    """

    name: str
    kind: int
    channels_first: bool
    batch_is_fixed: bool
    bgr: bool
    spec: InputSpec

    @property
    def takes_pixels(self) -> bool:
        """Return whether it takes 0..255."""
        return self.kind == TensorProto.UINT8

    def prepared(self, images: Pixels) -> npt.NDArray[np.generic]:
        """Return what the file takes for uint8 ``[N, H, W, C]``."""
        values: npt.NDArray[np.generic] = images
        if not self.takes_pixels:
            values = ((images / 255 - self.spec.mean) / self.spec.std).astype(np.float32)
            values = values.astype(helper.tensor_dtype_to_np_dtype(self.kind))
        values = values[..., ::-1] if self.bgr else values
        return np.ascontiguousarray(values.transpose(TO_NCHW) if self.channels_first else values)

    def __str__(self) -> str:
        """Say it in words."""
        layout = "[N, C, H, W]" if self.channels_first else "[N, H, W, C]"
        order = ", channels in the order BGR" if self.bgr else ""
        return f"{helper.tensor_dtype_to_np_dtype(self.kind)} {layout}{order}"


def images_of(model: onnx.ModelProto, request: ImportRequest) -> Images:
    """Find the picture that a model takes.

    Raises:
        OnnxImportError: it takes something else, or does not say how large, and ``request`` neither.
    """
    inputs = editing.inputs(model.graph)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise OnnxImportError(f"it has {len(inputs)} inputs ({names}) where a classifier has one")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8):
        known = tensor.elem_type in TensorProto.DataType.values()
        kind = (
            TensorProto.DataType.Name(tensor.elem_type)
            if known
            else f"of the unknown type {tensor.elem_type}"
        )
        raise OnnxImportError(f"its input is {kind}; FLOAT, FLOAT16 or UINT8 is taken")
    # A free side is a name, nothing, -1 or 0: exporters differ.
    sides = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    if len(sides) != 4:
        raise OnnxImportError(f"its input has {len(sides)} axes where pictures have 4")
    batch = sides[0]
    if batch not in (None, 1):
        raise OnnxImportError(f"its batch is fixed at {batch}; one that is free or 1 is taken")
    channels_first = _is_channels_first(sides, request.layout)
    takes_pixels = tensor.elem_type == TensorProto.UINT8
    return Images(
        name=inputs[0].name,
        kind=tensor.elem_type,
        channels_first=channels_first,
        batch_is_fixed=batch is not None,
        bgr=request.channel_order == "bgr",
        spec=_spec(sides, channels_first, takes_pixels, request),
    )


def picture_type(model: onnx.ModelProto) -> onnx.TypeProto.Tensor | None:
    """Return the type of the one input that is no weight, where there is one."""
    inputs = editing.inputs(model.graph)
    return inputs[0].type.tensor_type if len(inputs) == 1 else None


def sizes_are_given(model: onnx.ModelProto) -> bool:
    """Return whether height and width stand in the graph itself: at least three axes are fixed."""
    found = picture_type(model)
    return found is not None and sum(dim.dim_value > 0 for dim in found.shape.dim[1:]) >= 3


def output_of(model: onnx.ModelProto, request: ImportRequest) -> str:
    """Find the name of the scores.

    Raises:
        OnnxImportError: there are several outputs that may be scores, and ``request`` does not say which.
    """
    names = [value.name for value in model.graph.output]
    if request.output is None and len(names) > 1:  # label numbers and maps beside the scores are none
        scores = [value.name for value in model.graph.output if value.type.tensor_type.elem_type in _SCORES]
        names = scores if len(scores) == 1 else names
    if request.output is not None and request.output not in names:
        raise OnnxImportError(f"it has no output {request.output!r}; it has {', '.join(names)}")
    if request.output is None and len(names) != 1:
        raise OnnxImportError(f"it has {len(names)} outputs ({', '.join(names)}); say which are the scores")
    return request.output or names[0]


def _is_channels_first(sides: Sides, layout: str) -> bool:
    first, last = sides[1] in _CHANNELS, sides[3] in _CHANNELS
    if layout == "auto" and first == last:
        raise OnnxImportError(
            f"its layout cannot be told from {_said(sides)}: say whether it is nchw or nhwc"
        )
    channels_first = first if layout == "auto" else layout == "nchw"
    if not (first if channels_first else last):
        raise OnnxImportError(f"as {layout} its input {_said(sides)} has neither 1 nor 3 channels")
    return channels_first


def _spec(sides: Sides, channels_first: bool, takes_pixels: bool, request: ImportRequest) -> InputSpec:
    channels, height, width = sides[1:] if channels_first else (sides[3], sides[1], sides[2])
    assert channels is not None
    bgr = request.channel_order == "bgr"
    if bgr and channels == 1:
        raise OnnxImportError("it takes one channel, which has no order BGR")
    mean, std = _normalisation(channels, takes_pixels, request)
    if bgr:
        mean, std = mean[::-1], std[::-1]
    free = [
        name
        for name, own, asked in (("height", height, request.height), ("width", width, request.width))
        if own is None and asked is None
    ]
    if free:
        raise OnnxImportError(
            f"it leaves its {' and '.join(free)} free: say with --input HxW what its maker ran it at"
        )
    try:
        return InputSpec(
            channels,
            _side("height", height, request.height),
            _side("width", width, request.width),
            mean=mean,
            std=std,
        )
    except ValueError as error:
        raise OnnxImportError(str(error)) from error


def _normalisation(
    channels: int, takes_pixels: bool, request: ImportRequest
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of values 0..1, one a channel, in the network's order."""
    given = (request.scale, request.mean, request.std)
    if takes_pixels:
        if given != (None, None, None):
            raise OnnxImportError("it takes uint8 pixels and normalises by itself: mean and std say nothing")
        return (0.0,) * channels, (1 / 255,) * channels  # it sees 0..255
    scale, mean, std = (
        (given or (default,)) * (channels if len(given or ()) < 2 else 1)
        for given, default in zip(given, (1 / 255, 0.0, 1.0), strict=True)
    )
    if not all(map(math.isfinite, (*scale, *mean, *std))):
        raise OnnxImportError("mean and std must be finite")
    for name, values in (("scale", scale), ("mean", mean), ("std", std)):
        if len(values) != channels:
            raise OnnxImportError(f"{name} has {len(values)} numbers for {channels} channels")
    if min(scale) <= 0:
        raise OnnxImportError(f"scale must be above zero, not {scale}")
    # (p scale - mean) / std, p of 0..255, on the scale 0..1; 1/255 leaves both exactly as they are.
    return (
        tuple(value / (255 * factor) for value, factor in zip(mean, scale, strict=True)),
        tuple(value / (255 * factor) for value, factor in zip(std, scale, strict=True)),
    )


def _side(name: str, own: int | None, asked: int | None) -> int:
    side_px = asked if own is None else own
    assert side_px is not None
    if asked not in (None, side_px):
        raise OnnxImportError(f"its {name} is {side_px}, not {asked}")
    if not 1 <= side_px <= MAX_SIDE_PX:
        raise OnnxImportError(f"its {name} is {side_px}; 1 to {MAX_SIDE_PX} pixels are taken")
    return side_px


def _said(sides: Sequence[int | None]) -> str:
    return f"[{', '.join('free' if side is None else str(side) for side in sides)}]"
