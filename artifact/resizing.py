"""Geometry of the preprocessing: from an upright picture of any size to the pixels of a network's input.

Every rule is that of a library that networks are trained with, down to how it rounds.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from modelzoo.v1 import manifest_pb2

Pixels = npt.NDArray[np.uint8]
_Indices = npt.NDArray[np.int64]
_Weights = npt.NDArray[np.int32]

_SHORTER_MODES = frozenset((manifest_pb2.RESIZE_MODE_SHORTER, manifest_pb2.RESIZE_MODE_SHORTER_ROUNDED))
_FILTERS = {
    manifest_pb2.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
    manifest_pb2.INTERPOLATION_NEAREST: Image.Resampling.NEAREST,
}
_INTERPOLATIONS = frozenset(
    (
        *_FILTERS,
        manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
        manifest_pb2.INTERPOLATION_OPENCV_NEAREST,
    )
)
# Those that average over the source when they shrink: a picture may be decoded smaller before.
ANTIALIASED = frozenset((manifest_pb2.INTERPOLATION_BILINEAR, manifest_pb2.INTERPOLATION_BICUBIC))
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_OPENCV_COEF_BITS = 11  # INTER_RESIZE_COEF_BITS of OpenCV's resize.cpp
_STRIP_PX = 1 << 16  # that are made at once, of some 60 bytes each while they are


class _Window(NamedTuple):
    """Part of a resized picture that the input shows, in pixels."""

    left: int
    top: int
    width: int
    height: int


def problems(preprocessing: manifest_pb2.Preprocessing, lengths_px: range) -> Iterator[str]:
    """Check what a manifest says of its preprocessing.

    Args:
        lengths_px: that the shorter side may be resized to, from the input's longer side on.

    Yields:
        What is wrong, a phrase each.
    """
    mode = preprocessing.resize_mode
    if mode not in manifest_pb2.ResizeMode.values():
        yield f"preprocessing.resize_mode {mode} is unknown"
    elif mode not in _SHORTER_MODES:
        if preprocessing.resize_shorter_px:
            yield "preprocessing.resize_shorter_px says nothing where both sides are fitted to the input"
    elif preprocessing.resize_shorter_px not in lengths_px:
        yield "preprocessing.resize_shorter_px is smaller than the input, or missing"
    if preprocessing.interpolation not in _INTERPOLATIONS:
        yield "preprocessing.interpolation is missing or unknown"
    if preprocessing.scaled_decoding and preprocessing.interpolation not in ANTIALIASED:
        yield "preprocessing.scaled_decoding needs an interpolation that averages over the source"
    letterbox = mode == manifest_pb2.RESIZE_MODE_LETTERBOX
    if letterbox != bool(preprocessing.fill):
        yield "preprocessing.fill is missing" if letterbox else "preprocessing.fill needs a letterbox"
    for name in ("fill", "background"):
        colour = getattr(preprocessing, name)
        if colour and not _COLOUR.fullmatch(colour):
            yield f"preprocessing.{name} {colour!r} is no colour #rrggbb"


def resized(
    width_px: int, height_px: int, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> tuple[int, int]:
    """Return width and height of a picture after it was resized."""
    mode = preprocessing.resize_mode
    if mode == manifest_pb2.RESIZE_MODE_STRETCH:
        return shape.width, shape.height
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
        resample = (
            _opencv_nearest
            if preprocessing.interpolation == manifest_pb2.INTERPOLATION_OPENCV_NEAREST
            else _opencv_bilinear
        )
        image = Image.fromarray(resample(np.asarray(image), size, window))
    if image.size != (shape.width, shape.height):
        colour = ImageColor.getrgb(preprocessing.fill)
        ground = Image.new("RGB", (shape.width, shape.height), colour).convert(image.mode)
        # Halves of the border round down, as YOLO's round(border - 0.1) does.
        ground.paste(image, ((shape.width - image.width) // 2, (shape.height - image.height) // 2))
        image = ground
    return np.asarray(image, np.uint8).reshape(shape.height, shape.width, shape.channels)


def _window(
    size: tuple[int, int], shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> _Window:
    """Return what of a resized picture is kept: its centre, or all of it where it lies within the input."""
    if preprocessing.resize_mode == manifest_pb2.RESIZE_MODE_SHORTER:
        left, top = round((size[0] - shape.width) / 2.0), round((size[1] - shape.height) / 2.0)
    else:
        left, top = max(0, (size[0] - shape.width) // 2), max(0, (size[1] - shape.height) // 2)
    return _Window(left, top, min(size[0], shape.width), min(size[1], shape.height))


def _opencv_nearest(pixels: Pixels, size: tuple[int, int], window: _Window) -> Pixels:
    """Resize as OpenCV's INTER_NEAREST does, and make the window of it; uint8 ``[h, w]`` or ``[h, w, C]``."""
    columns, rows = (
        np.minimum(np.floor(_targets(start, length) * _scale(source_px, target_px)), source_px - 1)
        for source_px, target_px, start, length in _axes(pixels, size, window)
    )
    return pixels[rows.astype(np.int64)[:, np.newaxis], columns.astype(np.int64)]


def _opencv_bilinear(pixels: Pixels, size: tuple[int, int], window: _Window) -> Pixels:
    """Resize as OpenCV's INTER_LINEAR does, to the last bit (resize.cpp: HResizeLinear, VResizeLinear).

    Args:
        pixels: uint8 ``[h, w]`` or ``[h, w, C]``.
    """
    across, down = _axes(pixels, size, window)
    columns, x_weights = _neighbours(*across)
    # Beside the picture a column is the outermost one alone; rows are two, of which one or both are clipped.
    x_weights[(columns < 0) | (columns >= across[0] - 1)] = (1 << _OPENCV_COEF_BITS, 0)
    rows, y_weights = _neighbours(*down)
    made = np.empty((window.height, window.width, *pixels.shape[2:]), np.uint8)
    step = max(1, _STRIP_PX // window.width)
    for start in range(0, window.height, step):
        strip = slice(start, start + step)
        made[strip] = _blended(pixels, rows[strip], y_weights[strip], columns, x_weights)
    return made


def _blended(
    pixels: Pixels, rows: _Indices, y_weights: _Weights, columns: _Indices, x_weights: _Weights
) -> Pixels:
    """Blend four neighbours for each pair of a row and a column; the picture's edge goes on beyond it."""
    trailing = (1,) * (pixels.ndim - 2)
    across = x_weights.reshape(-1, *trailing, 2)  # [W, 1, 2]
    down = y_weights.reshape(-1, 1, *trailing, 2)
    lefts, rights = (np.clip(columns + by, 0, pixels.shape[1] - 1) for by in (0, 1))
    blended = np.zeros((), np.int32)
    for below in (0, 1):
        row = np.clip(rows + below, 0, pixels.shape[0] - 1)[:, np.newaxis]
        line = pixels[row, lefts] * across[..., 0] + pixels[row, rights] * across[..., 1]  # int32 [H, W, C]
        blended = blended + (((line >> 4) * down[..., below]) >> 16)
    result: Pixels = ((blended + 2) >> 2).astype(np.uint8)
    return result


def _axes(
    pixels: Pixels, size: tuple[int, int], window: _Window
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Return for columns and rows: pixels before, pixels after, and start and length of what is made."""
    return (
        (pixels.shape[1], size[0], window.left, window.width),
        (pixels.shape[0], size[1], window.top, window.height),
    )


def _targets(start: int, length: int) -> npt.NDArray[np.float64]:
    return np.arange(start, start + length, dtype=np.float64)


def _scale(source_px: int, target_px: int) -> float:
    return 1.0 / (target_px / source_px)  # rounded twice, as OpenCV has it


def _neighbours(source_px: int, target_px: int, start: int, length: int) -> tuple[_Indices, _Weights]:
    """Return for each target its first neighbour of two, outside perhaps, and both weights ``[T, 2]``."""
    places = ((_targets(start, length) + 0.5) * _scale(source_px, target_px) - 0.5).astype(np.float32)
    first = np.floor(places)
    second_share = places - first  # float32, as the products below
    shares = np.stack([np.float32(1) - second_share, second_share], axis=1)
    weights = np.rint(shares * np.float32(1 << _OPENCV_COEF_BITS)).astype(np.int32)
    return first.astype(np.int64), weights
