"""Geometry of the preprocessing: from an upright picture of any size to the pixels of a network's input.

Every rule is that of a library that networks are trained with, down to how it rounds.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from artifact.fitting import opencv
from modelzoo.v1 import manifest_pb2

Pixels = npt.NDArray[np.uint8]

_SHORTER_MODES = frozenset((manifest_pb2.RESIZE_MODE_SHORTER, manifest_pb2.RESIZE_MODE_SHORTER_ROUNDED))
_FILTERS = {
    manifest_pb2.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
    manifest_pb2.INTERPOLATION_NEAREST: Image.Resampling.NEAREST,
    manifest_pb2.INTERPOLATION_LANCZOS: Image.Resampling.LANCZOS,
    manifest_pb2.INTERPOLATION_BOX: Image.Resampling.BOX,
    manifest_pb2.INTERPOLATION_HAMMING: Image.Resampling.HAMMING,
}
# Those that average over the source when they shrink: a picture may be decoded smaller before.
ANTIALIASED = frozenset(
    (*(_FILTERS.keys() - {manifest_pb2.INTERPOLATION_NEAREST}), manifest_pb2.INTERPOLATION_OPENCV_AREA)
)
_FILLED_MODES = frozenset((manifest_pb2.RESIZE_MODE_LETTERBOX, manifest_pb2.RESIZE_MODE_LINE))
_COLOUR = re.compile(r"#[0-9a-f]{6}")


class _Window(NamedTuple):
    """Part of a resized picture that the input shows, in pixels."""

    left: int
    top: int
    width: int
    height: int


def problems(
    preprocessing: manifest_pb2.Preprocessing, shape: manifest_pb2.Input, max_side_px: int
) -> Iterator[str]:
    """Check what a manifest says of its preprocessing.

    Args:
        shape: the input.
        max_side_px: that a side may be resized to.

    Yields:
        What is wrong, a phrase each.
    """
    yield from _length_problems(preprocessing, shape, max_side_px)
    if preprocessing.interpolation not in _FILTERS.keys() | opencv.FILTERS.keys():
        yield "preprocessing.interpolation is missing or unknown"
    if preprocessing.scaled_decoding and preprocessing.interpolation not in ANTIALIASED:
        yield "preprocessing.scaled_decoding needs an interpolation that averages over the source"
    filled = preprocessing.resize_mode in _FILLED_MODES
    if filled != bool(preprocessing.fill):
        yield "preprocessing.fill is missing" if filled else "preprocessing.fill needs a letterbox, or a line"
    for name in ("fill", "background"):
        colour = getattr(preprocessing, name)
        if colour and not _COLOUR.fullmatch(colour):
            yield f"preprocessing.{name} {colour!r} is no colour #rrggbb"


def _length_problems(
    preprocessing: manifest_pb2.Preprocessing, shape: manifest_pb2.Input, max_side_px: int
) -> Iterator[str]:
    mode = preprocessing.resize_mode
    if mode not in manifest_pb2.ResizeMode.values():
        yield f"preprocessing.resize_mode {mode} is unknown"
    elif mode not in _SHORTER_MODES:
        if preprocessing.resize_shorter_px:
            yield "preprocessing.resize_shorter_px says nothing where both sides are fitted to the input"
    elif not max(shape.height, shape.width) <= preprocessing.resize_shorter_px <= max_side_px:
        yield "preprocessing.resize_shorter_px is smaller than the input, or missing"
    for name, side_px in (("height", shape.height), ("width", shape.width)):
        length_px = getattr(preprocessing, f"resize_{name}_px")
        if length_px and mode != manifest_pb2.RESIZE_MODE_STRETCH:
            yield f"preprocessing.resize_{name}_px needs pictures that are stretched"
        elif length_px and not side_px <= length_px <= max_side_px:
            yield f"preprocessing.resize_{name}_px is smaller than the input, or too large"


def resized(
    width_px: int, height_px: int, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> tuple[int, int]:
    """Return width and height of a picture after it was resized."""
    mode = preprocessing.resize_mode
    if mode == manifest_pb2.RESIZE_MODE_STRETCH:
        return preprocessing.resize_width_px or shape.width, preprocessing.resize_height_px or shape.height
    if mode == manifest_pb2.RESIZE_MODE_LINE:
        return min(shape.width, math.ceil(shape.height * (width_px / height_px))), shape.height
    if mode == manifest_pb2.RESIZE_MODE_LETTERBOX:
        ratio = min(shape.width / width_px, shape.height / height_px)
        return max(1, round(width_px * ratio)), max(1, round(height_px * ratio))
    shorter_px = preprocessing.resize_shorter_px
    if mode == manifest_pb2.RESIZE_MODE_SHORTER_ROUNDED:
        ratio = shorter_px / min(width_px, height_px)
        return round(width_px * ratio), round(height_px * ratio)
    if width_px <= height_px:
        return shorter_px, int(shorter_px * height_px / width_px)
    return int(shorter_px * width_px / height_px), shorter_px


def fit(
    image: Image.Image,
    size: tuple[int, int],
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
) -> Pixels:
    """Resize a picture, grey or RGB, and crop or fill it to the input.

    Args:
        size: what `resized` returned for it.

    Returns:
        uint8 ``[H, W, C]``, contiguous.
    """
    window = _window(size, shape, preprocessing)
    if preprocessing.interpolation in _FILTERS:
        if size != image.size:
            image = image.resize(size, _FILTERS[preprocessing.interpolation])
        image = image.crop((window.left, window.top, window.left + window.width, window.top + window.height))
    else:
        across = opencv.Axis(image.width, size[0], window.left, window.width)
        down = opencv.Axis(image.height, size[1], window.top, window.height)
        image = Image.fromarray(opencv.resize(np.asarray(image), across, down, preprocessing.interpolation))
    if image.size != (shape.width, shape.height):
        colour = ImageColor.getrgb(preprocessing.fill)
        ground = Image.new("RGB", (shape.width, shape.height), colour).convert(image.mode)
        # Halves of the border round down, as YOLO's round(border - 0.1) does; a line begins at the left.
        left_px = (
            0 if preprocessing.resize_mode == manifest_pb2.RESIZE_MODE_LINE else shape.width - image.width
        )
        ground.paste(image, (left_px // 2, (shape.height - image.height) // 2))
        image = ground
    return np.asarray(image, np.uint8).reshape(shape.height, shape.width, shape.channels)


def _window(
    size: tuple[int, int], shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> _Window:
    """Return what of a resized picture is kept: its centre, or all of it where it lies within the input."""
    if preprocessing.resize_mode in (manifest_pb2.RESIZE_MODE_SHORTER, manifest_pb2.RESIZE_MODE_STRETCH):
        left, top = round((size[0] - shape.width) / 2.0), round((size[1] - shape.height) / 2.0)
    else:
        left, top = max(0, (size[0] - shape.width) // 2), max(0, (size[1] - shape.height) // 2)
    return _Window(left, top, min(size[0], shape.width), min(size[1], shape.height))
