"""OpenCV's resize of 8-bit pictures, pixel by pixel; OpenCV is not among this project's packages.

INTER_LINEAR and INTER_NEAREST, from the formulas of modules/imgproc/src/resize.cpp of 4.x, which leaves 8-bit
pictures to no other library.
"""

import math

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
