"""Copies among pictures: files with the same bytes, and those that look the same in small."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from export.data.reading import Picture

# Of 255, root mean square of 8 x 8 blocks. Photographs in another size, quality or format differed by up to
# 2.1, tiny pictures of noise by up to 7; different digits of scikit-learn by 21 or more, photographs by 26.
_RMS_DIFFERENCE = 8.0
_MAX_DIFFERENCE = 48  # of any of 16 x 16 blocks: a detail that differs makes another picture
_BLOCKS = 8
_SEARCHED = 1024  # pictures with neighbours that are looked for at once


def exact(pictures: Sequence[Picture]) -> npt.NDArray[np.int64]:
    """Number the pictures, int64 ``[N]``, so that those with equal bytes have one number."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(one.digest, len(numbers)) for one in pictures], np.int64)


def near(pictures: Sequence[Picture]) -> npt.NDArray[np.int64]:
    """Number the pictures, int64 ``[N]``, so that those that look the same in small have one number.

    Each is a copy of the first one before it that it looks like, and of no other: looks are not passed on
    from copy to copy.
    """
    thumbnails = np.stack([one.thumbnail for one in pictures])  # [N, 16, 16, 3]
    size = thumbnails.shape[1] // _BLOCKS
    blocks = thumbnails.reshape(-1, _BLOCKS, size, _BLOCKS, size, 3).mean(axis=(2, 4), dtype=np.float32)
    points = blocks.reshape(len(pictures), -1)
    search = NearestNeighbors(radius=_RMS_DIFFERENCE * points.shape[1] ** 0.5).fit(points)
    numbers = np.full(len(pictures), -1, np.int64)
    for start in range(0, len(pictures), _SEARCHED):  # the neighbours of all at once could be all pairs
        rows = start + np.flatnonzero(numbers[start : start + _SEARCHED] < 0)
        if not len(rows):
            continue
        for row, around in zip(
            rows, search.radius_neighbors(points[rows], return_distance=False), strict=True
        ):
            if numbers[row] >= 0:
                continue
            numbers[row] = row
            candidates = around[numbers[around] < 0]
            differences = np.abs(thumbnails[candidates].astype(np.int16) - thumbnails[row])
            numbers[candidates[differences.max(axis=(1, 2, 3)) <= _MAX_DIFFERENCE]] = row
    return numbers
