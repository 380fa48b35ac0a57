"""OpenCV's resize of 8-bit pictures, pixel by pixel; OpenCV is not among this project's packages.

From the formulas of modules/imgproc/src/resize.cpp. Held against OpenCV 4.14 and 5.0 on random pictures:
INTER_NEAREST, INTER_LINEAR and INTER_LANCZOS4 give its very pixels, INTER_AREA but for ties. INTER_CUBIC,
which its packages for x86 leave to Intel's library, differs by one in less than a hundredth of the pixels.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np


def opencv_linear(pixels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """OpenCV's INTER_LINEAR of uint8 [h, w, C], one pixel after the other, in whole numbers."""

    def taps(target: int, source_px: int, target_px: int) -> tuple[int, int, int]:
        place = np.float32((target + 0.5) * (1 / (target_px / source_px)) - 0.5)
        first = math.floor(place)
        share = np.float32(place - np.float32(first))
        return first, round(float((np.float32(1) - share) * 2048)), round(float(share * 2048))

    height, width, channels = pixels.shape
    made = np.empty((height_px, width_px, channels), np.uint8)
    for y in range(height_px):
        first_row, upper, lower = taps(y, height, height_px)
        rows = [min(max(first_row + step, 0), height - 1) for step in (0, 1)]
        for x in range(width_px):
            first, left, right = taps(x, width, width_px)
            if first < 0 or first >= width - 1:
                first, left, right = min(max(first, 0), width - 1), 2048, 0
            for channel in range(channels):
                lines = [
                    int(pixels[row, first, channel]) * left
                    + int(pixels[row, min(first + 1, width - 1), channel]) * right
                    for row in rows
                ]
                total = (((lines[0] >> 4) * upper) >> 16) + (((lines[1] >> 4) * lower) >> 16)
                made[y, x, channel] = (total + 2) >> 2
    return made


def opencv_nearest(pixels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """OpenCV's INTER_NEAREST of uint8 [h, w, C]."""
    height, width, _ = pixels.shape
    columns = [min(math.floor(x * (1 / (width_px / width))), width - 1) for x in range(width_px)]
    rows = [min(math.floor(y * (1 / (height_px / height))), height - 1) for y in range(height_px)]
    return pixels[rows][:, columns]


def opencv_cubic(pixels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """OpenCV's INTER_CUBIC of uint8 [h, w, C]: Keys' kernel with a = -0.75."""

    def kernel(distance: float) -> float:
        x = abs(distance)
        if x <= 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3

    def weights(share: float) -> list[float]:
        return [kernel(share - step) for step in (-1, 0, 1, 2)]

    return _separable(pixels, width_px, height_px, weights, round)


def opencv_lanczos(pixels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """OpenCV's INTER_LANCZOS4 of uint8 [h, w, C]: eight taps, in whole 2048ths that sum up to 1."""

    def weights(share: float) -> list[int]:
        if share < 1e-6:
            return [0, 0, 0, 2048, 0, 0, 0, 0]
        distances = [share - step for step in range(-3, 5)]
        heights = [math.sin(math.pi * d) * math.sin(math.pi * d / 4) / d**2 for d in distances]
        return [round(2048 * height / sum(heights)) for height in heights]

    return _separable(pixels, width_px, height_px, weights, lambda total: (total + (1 << 21)) >> 22)


def opencv_area(pixels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """OpenCV's INTER_AREA of uint8 [h, w, C], of which neither side grows: means of what a pixel covers."""

    def shares(source_px: int, target_px: int) -> np.ndarray:
        """Of each source pixel for each target, [target_px, source_px]."""
        edges = [target * source_px / target_px for target in range(target_px + 1)]
        covered = [
            [max(0.0, min(end, place + 1) - max(start, place)) for place in range(source_px)]
            for start, end in pairwise(edges)
        ]
        return np.array(covered) / (source_px / target_px)

    height, width, _ = pixels.shape
    means = np.einsum("yh,xw,hwc->yxc", shares(height, height_px), shares(width, width_px), pixels * 1.0)
    if (width, height) == (2 * width_px, 2 * height_px):
        return np.floor(means + 0.5).astype(np.uint8)
    if width % width_px == height % height_px == 0:  # whole pixels: a sum, and one product in float32
        count = width * height // (width_px * height_px)
        return np.rint(np.rint(means * count).astype(np.float32) * np.float32(1 / count)).astype(np.uint8)
    return np.rint(means).astype(np.uint8)


def _separable(
    pixels: np.ndarray,
    width_px: int,
    height_px: int,
    weights: Callable[[float], list[float]] | Callable[[float], list[int]],
    rounded: Callable[[Any], int],
) -> np.ndarray:
    """Weigh the neighbours of each pixel's centre, those beside the picture being its edge."""

    def taps(target: int, source_px: int, target_px: int) -> list[tuple[int, float]]:
        place = np.float32((target + 0.5) * (1 / (target_px / source_px)) - 0.5)
        first = math.floor(place)
        made = weights(float(place - np.float32(first)))
        start = first - len(made) // 2 + 1
        return [(min(max(start + index, 0), source_px - 1), weight) for index, weight in enumerate(made)]

    height, width, channels = pixels.shape
    numbers = pixels.astype(np.int64)
    made = np.empty((height_px, width_px, channels), np.uint8)
    for y in range(height_px):
        for x in range(width_px):
            total = sum(
                numbers[row, column] * (below * beside)
                for row, below in taps(y, height, height_px)
                for column, beside in taps(x, width, width_px)
            )
            made[y, x] = [min(max(rounded(value), 0), 255) for value in total]
    return made
