"""The ideal server: ONNX Runtime's speed, late binding, and no cost of its own."""

import heapq
from collections.abc import Mapping

import numpy as np

from bench.load.load import Floats


def latencies_s(
    arrivals_s: Floats, images_per_request: int, curve_s: Mapping[int, float], lanes: int
) -> Floats:
    """Simulate it.

    A lane that is free takes the oldest waiting images: all of them, up to the batch size with most images
    per second.

    Args:
        arrivals_s: of the requests, ascending.
        curve_s: how long a batch takes, by its size; sizes between are interpolated.
        lanes: batches that run at the same time.

    Returns:
        From each request's arrival to the end of the batch with the last of its images.

    Raises:
        ValueError: there is no lane, or no batch of one image in the curve.
    """
    if lanes < 1 or min(curve_s, default=0) != 1:
        raise ValueError(f"{lanes} lanes with batches of {sorted(curve_s)} images answer nothing")
    sizes = sorted(curve_s)
    seconds = [curve_s[size] for size in sizes]
    most = max(sizes, key=lambda size: size / curve_s[size])
    due_s = np.repeat(arrivals_s, images_per_request)  # [images]
    ended_s = np.empty_like(due_s)
    free_s = [0.0] * lanes
    first = 0
    while first < len(due_s):
        begins_s = max(heapq.heappop(free_s), float(due_s[first]))
        waiting = int(np.searchsorted(due_s, begins_s, side="right")) - first
        size = min(waiting, most)
        ends_s = begins_s + float(np.interp(size, sizes, seconds))
        ended_s[first : first + size] = ends_s
        heapq.heappush(free_s, ends_s)
        first += size
    answered_s: Floats = ended_s.reshape(-1, images_per_request).max(axis=1)  # [requests]
    return answered_s - arrivals_s
