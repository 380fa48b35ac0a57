"""OpenCV's resize of 8-bit pictures in NumPy, so that no server needs OpenCV to answer as it was trained.

The formulas are those of modules/imgproc/src/resize.cpp; 4.x and 5.x give the same pixels. All but
INTER_CUBIC are exact to the last bit. OpenCV's packages for x86 leave that one to Intel's library, which
computes in floating point: of random pixels, one in a thousand or fewer is off by one here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelzoo.v1 import manifest_pb2

Pixels = npt.NDArray[np.uint8]
_Indices = npt.NDArray[np.int64]
_Shares = npt.NDArray[np.float32]
_Numbers = npt.NDArray[Any]

_COEF_BITS = 11  # INTER_RESIZE_COEF_BITS
_CUBIC_A = np.float32(-0.75)
_MIN_COVER_RATIO = 1e-3  # of a pixel that INTER_AREA still counts
_STRIP_NUMBERS = 1 << 20  # made at once, of up to eight bytes each


class Axis(NamedTuple):
    """One axis of a resize, in pixels: before and after, and start and length of what is made of it."""

    source_px: int
    target_px: int
    start: int
    length: int

    @property
    def targets(self) -> npt.NDArray[np.float64]:
        """Return the pixels that are made."""
        return np.arange(self.start, self.start + self.length, dtype=np.float64)

    @property
    def scale(self) -> float:
        """Return the source's pixels for one target, rounded twice, as OpenCV has it."""
        return 1.0 / (self.target_px / self.source_px)


class _Taps(NamedTuple):
    """Pixels of the source that make each target, outside perhaps, and their weights, both ``[T, taps]``."""

    places: _Indices
    weights: _Numbers


def resize(
    pixels: Pixels, across: Axis, down: Axis, interpolation: "manifest_pb2.Interpolation.ValueType"
) -> Pixels:
    """Resize a picture, and make the part of it that the axes name.

    Args:
        pixels: uint8 ``[h, w]`` or ``[h, w, C]``.
        across: its columns.
        down: its rows.
        interpolation: a key of `FILTERS`.
    """
    return FILTERS[interpolation](pixels, across, down)


def _nearest(pixels: Pixels, across: Axis, down: Axis) -> Pixels:
    columns, rows = (
        np.minimum(np.floor(axis.targets * axis.scale), axis.source_px - 1).astype(np.int64)
        for axis in (across, down)
    )
    return pixels[rows[:, np.newaxis], columns]


def _bilinear(pixels: Pixels, across: Axis, down: Axis) -> Pixels:
    return _linear(pixels, across, (_centred(across), _centred(down)))


def _bicubic(pixels: Pixels, across: Axis, down: Axis) -> Pixels:
    def taps(axis: Axis) -> _Taps:
        first, shares = _centred(axis)
        return _Taps(first[:, np.newaxis] + np.arange(-1, 3), _cubic(shares).astype(np.float64))

    return _made(pixels, taps(across), taps(down), np.rint)


def _lanczos(pixels: Pixels, across: Axis, down: Axis) -> Pixels:
    def taps(axis: Axis) -> _Taps:
        first, shares = _centred(axis)
        return _Taps(first[:, np.newaxis] + np.arange(-3, 5), _fixed(_lanczos4(shares)))

    half = 1 << (2 * _COEF_BITS - 1)
    return _made(pixels, taps(across), taps(down), lambda sums: (sums + half) >> (2 * _COEF_BITS))


def _area(pixels: Pixels, across: Axis, down: Axis) -> Pixels:
    axes = (across, down)
    if min(across.scale, down.scale) < 1:
        return _linear(pixels, across, (_cornered(across), _cornered(down)))
    sides_px = [round(axis.scale) for axis in axes]
    if any(
        abs(axis.scale - side_px) >= np.finfo(float).eps for axis, side_px in zip(axes, sides_px, strict=True)
    ):
        return _made(pixels, _covered(across), _covered(down), np.rint)
    columns, rows = (_whole(axis, side_px) for axis, side_px in zip(axes, sides_px, strict=True))
    if sides_px == [2, 2]:
        return _made(pixels, columns, rows, lambda sums: (sums + 2) >> 2)
    share = np.float32(1 / math.prod(sides_px))
    return _made(pixels, columns, rows, lambda sums: np.rint(sums.astype(np.float32) * share))


FILTERS: dict["manifest_pb2.Interpolation.ValueType", Callable[[Pixels, Axis, Axis], Pixels]] = {
    manifest_pb2.INTERPOLATION_OPENCV_NEAREST: _nearest,
    manifest_pb2.INTERPOLATION_OPENCV_BILINEAR: _bilinear,
    manifest_pb2.INTERPOLATION_OPENCV_BICUBIC: _bicubic,
    manifest_pb2.INTERPOLATION_OPENCV_AREA: _area,
    manifest_pb2.INTERPOLATION_OPENCV_LANCZOS: _lanczos,
}


def _centred(axis: Axis) -> tuple[_Indices, _Shares]:
    """Return for each target's centre the pixel before it, outside perhaps, and how far it lies behind."""
    places = ((axis.targets + 0.5) * axis.scale - 0.5).astype(np.float32)
    first = np.floor(places)
    return first.astype(np.int64), places - first


def _cornered(axis: Axis) -> tuple[_Indices, _Shares]:
    """Return the same where INTER_AREA is linear: a pixel is blended with the next only across its edge."""
    first = np.floor(axis.targets * axis.scale)
    shares = ((axis.targets + 1) - (first + 1) * (axis.target_px / axis.source_px)).astype(np.float32)
    return first.astype(np.int64), np.where(shares <= 0, np.float32(0), shares - np.floor(shares))


def _cubic(shares: _Shares) -> _Shares:
    """Weigh four pixels (interpolateCubic)."""
    a, x = _CUBIC_A, shares
    past, back = x + 1, 1 - x
    weights = [
        ((a * past - 5 * a) * past + 8 * a) * past - 4 * a,
        ((a + 2) * x - (a + 3)) * x * x + 1,
        ((a + 2) * back - (a + 3)) * back * back + 1,
    ]
    return np.stack([*weights, 1 - weights[0] - weights[1] - weights[2]], axis=1)


def _lanczos4(shares: _Shares) -> _Shares:
    """Weigh eight pixels (interpolateLanczos4)."""
    diagonal = math.sqrt(0.5)
    turns = ((1, 0), (-diagonal, -diagonal), (0, 1), (diagonal, -diagonal))  # the others are their opposites
    angles = -(shares + 3).astype(np.float64) * (math.pi / 4)
    sines, cosines = np.sin(angles), np.cos(angles)
    weights = np.empty((len(shares), 8), np.float32)
    total: _Shares = np.zeros(len(shares), np.float32)
    for index in range(8):
        distances = (shares + 3) - np.float32(index)
        near = np.abs(distances) < 1e-6
        squares = (np.where(near, 1, distances).astype(np.float64) * (math.pi / 4)) ** 2
        by_sine, by_cosine = turns[index % 4]
        sign = 1 if index < 4 else -1
        heights = (sign * (by_sine * sines + by_cosine * cosines) / squares).astype(np.float32)
        weights[:, index] = np.where(near, np.float32(1e30), heights)
        total += weights[:, index]
    normalised: _Shares = weights * (np.float32(1) / total)[:, np.newaxis]
    return normalised


def _fixed(weights: _Shares) -> npt.NDArray[np.int32]:
    numbers: npt.NDArray[np.int32] = np.rint(weights * np.float32(1 << _COEF_BITS)).astype(np.int32)
    return numbers


def _whole(axis: Axis, side_px: int) -> _Taps:
    """Return the pixels of targets that are so many whole pixels wide, and ones."""
    places = axis.targets.astype(np.int64)[:, np.newaxis] * side_px + np.arange(side_px)
    return _Taps(places, np.ones(places.shape, np.int32))


def _covered(axis: Axis) -> _Taps:
    """Return the pixels that each target covers, and their shares of it (computeResizeAreaTab)."""
    start, scale = axis.targets * axis.scale, axis.scale
    end, cell = start + scale, np.minimum(scale, axis.source_px - start)
    last = np.minimum(
        np.floor(end), axis.source_px - 1
    )  # the first pixel that is covered in part, or not at all
    first = np.minimum(np.ceil(start), last)
    before, behind = first - start, np.minimum(np.minimum(end - last, 1), cell)
    places = first[:, np.newaxis] - 1 + np.arange(math.ceil(scale) + 2)  # [T, taps]
    inner = (places >= first[:, np.newaxis]) & (places < last[:, np.newaxis])
    weights = np.where(inner, 1 / cell[:, np.newaxis], 0)
    weights[:, 0] = np.where(before > _MIN_COVER_RATIO, before / cell, 0)
    outer = np.where(end - last > _MIN_COVER_RATIO, behind / cell, 0)
    np.put_along_axis(
        weights, (last - first + 1).astype(np.int64)[:, np.newaxis], outer[:, np.newaxis], axis=1
    )
    return _Taps(places.astype(np.int64), weights.astype(np.float32))


def _linear(pixels: Pixels, across: Axis, places: tuple[tuple[_Indices, _Shares], ...]) -> Pixels:
    """Blend four neighbours in 11-bit fixed point (HResizeLinear, VResizeLinear)."""
    columns, rows = (
        _Taps(first[:, np.newaxis] + np.arange(2), _fixed(np.stack([1 - shares, shares], axis=1)))
        for first, shares in places
    )
    # Beside the picture a column is the outermost one alone; rows are two, of which one or both are clipped.
    beside = (columns.places[:, 0] < 0) | (columns.places[:, 0] >= across.source_px - 1)
    columns.weights[beside] = (1 << _COEF_BITS, 0)
    return _made(pixels, columns, rows, lambda sums: (sums + 2) >> 2, shifts=(4, 16))


def _made(
    pixels: Pixels,
    columns: _Taps,
    rows: _Taps,
    rounded: Callable[[_Numbers], _Numbers],
    shifts: tuple[int, int] | None = None,
) -> Pixels:
    """Sum up columns, then rows, in the type of their weights; the picture's edge goes on beyond it.

    Args:
        rounded: makes pixels of sums, which are then cut to 0..255.
        shifts: bits that are dropped of each line and of each product; none where nothing is.
    """
    height, width = len(rows.places), len(columns.places)
    lefts = np.clip(columns.places, 0, pixels.shape[1] - 1)
    tops = np.clip(rows.places, 0, pixels.shape[0] - 1)
    flat = (1,) * (pixels.ndim - 2)
    made = np.empty((height, width, *pixels.shape[2:]), np.uint8)
    lines_of_a_row = min(rows.places.shape[1], pixels.shape[0])
    numbers_of_a_line = max(math.prod(made.shape[1:]), math.prod(pixels.shape[1:]) // 8)  # of a byte there
    step = max(1, _STRIP_NUMBERS // (lines_of_a_row * numbers_of_a_line))
    for start in range(0, height, step):
        strip = slice(start, start + step)
        needed, places = np.unique(tops[strip], return_inverse=True)
        places = places.reshape(tops[strip].shape)
        source = pixels[needed]
        lines = np.zeros((len(needed), *made.shape[1:]), columns.weights.dtype)
        for tap in range(lefts.shape[1]):
            lines += source.take(lefts[:, tap], axis=1) * columns.weights[:, tap].reshape(-1, *flat)
        if shifts is not None:
            lines >>= shifts[0]
        sums = np.zeros(made[strip].shape, rows.weights.dtype)
        for tap in range(tops.shape[1]):
            products = lines[places[:, tap]] * rows.weights[strip, tap].reshape(-1, 1, *flat)
            sums += products if shifts is None else products >> shifts[1]
        made[strip] = np.clip(rounded(sums), 0, 255)
    return made
