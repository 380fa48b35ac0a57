"""The latency profile of a model: how long a batch of each size takes on this device.

Measured when the model is loaded (`loading`), put right by every batch that runs. By it the batcher
chooses sizes, and `admission` rejects what would be late.
"""

import math
from collections.abc import Mapping

import numpy as np

# Batches that take longer than this are worth it only where they bring so many more images per second.
_SHORT_S = 0.01
_WORTHWHILE_RATIO = 1.02
# Weight of a new observation in the mean, and in the mean of how much longer than that it was, much as TCP
# has it for round trips (RFC 6298). Four of these above the mean are what nearly all batches keep.
_WEIGHT, _EXCESSES = 1 / 8, 4
# A machine that stood still for seconds must not reject everything afterwards, and no batch takes no time.
_LARGEST_SURPRISE, _SMALLEST_RATIO = 2.0, 0.01
_HALF_LIFE_S = 10.0


def default_sizes(max_batch_size: int) -> list[int]:
    """Return the powers of two below a size, and it itself."""
    return [*(2**power for power in range((max_batch_size - 1).bit_length())), max_batch_size]


def up_to_knee(latency_s: Mapping[int, float]) -> dict[int, float]:
    """Leave out the sizes that bring hardly more images per second than a smaller one.

    They would make every image wait longer, for nothing. Where that is not noticed, they stay: larger
    batches spare the event loop and the lanes work that is not measured here.
    """
    most = max(size / seconds for size, seconds in latency_s.items())
    knee = min(size for size, seconds in latency_s.items() if size / seconds * _WORTHWHILE_RATIO >= most)
    return {size: s for size, s in latency_s.items() if size <= knee or s <= _SHORT_S}


class LatencyProfile:
    """The predicted time of a batch, by its size.

    A prediction is what was measured at load, times one factor that follows what batches really take: at
    load the machine was idle, as a rule; while it serves, gRPC and decoders want the same cores. One factor
    for all sizes keeps the curve's form, which is all that the choice of a size depends on.

    Args:
        latency_s: time of a batch, by its size.
        padded: whether the network pads a batch up to the next of these sizes (CUDA); elsewhere any size
            up to the largest runs as it is, and the times between are interpolated.
        measured_s: when that was, on the batcher's clock.
        side_by_side: batches that run at the same time without slowing each other down.

    Attributes:
        sizes: the allowed batch sizes, in ascending order.
        largest: the largest of them.
    """

    def __init__(
        self, latency_s: Mapping[int, float], *, padded: bool, measured_s: float, side_by_side: float = 1
    ) -> None:
        self.sizes = tuple(sorted(latency_s))
        self.largest = self.sizes[-1]
        measured = np.array([latency_s[size] for size in self.sizes])
        # Noise aside, a batch takes no longer than a larger one: it could be padded.
        measured = np.minimum.accumulate(measured[::-1])[::-1]
        counts = np.arange(self.largest + 1)  # of images; a batch of none never runs
        above = np.searchsorted(self.sizes, counts)
        self._padded_sizes: list[int] = (np.array(self.sizes)[above] if padded else counts).tolist()
        self._seconds: list[float] = (
            measured[above] if padded else np.interp(counts, self.sizes, measured)
        ).tolist()
        self._fastest = max(self.sizes, key=lambda size: size / self._seconds[size])
        self._side_by_side = side_by_side
        self._mean, self._excess, self._factor = 1.0, 0.0, 1.0
        self._observed_s = measured_s

    def padded_size(self, images: int) -> int:
        """Return the size at which a batch runs: more than its images where it is padded."""
        return self._padded_sizes[images]

    def batch_s(self, images: int) -> float:
        """Predict the time of one batch that nothing slows down, of no more than the largest size."""
        return self._seconds[images] * self._factor

    def measured_s(self, images: int) -> float:
        """Return what a batch of no more than the largest size took when the model was loaded."""
        return self._seconds[images]

    def drain_s(self, images: int) -> float:
        """Predict how long the device takes for any number of images, none included."""
        if images <= self._fastest:
            return self.batch_s(images) if images else 0.0
        full, rest = divmod(images, self._fastest)
        total_s = full * self.batch_s(self._fastest) + (self.batch_s(rest) if rest else 0.0)
        return max(total_s / self._side_by_side, self.batch_s(self._fastest))

    def least_s(self, images: int, now_s: float) -> float:
        """Return the time below which so many images are not worth a try.

        That is the prediction, believed the less the longer nothing ran: where it rejects everything,
        nothing else would ever correct it.
        """
        doubt: float = 0.5 ** ((now_s - self._observed_s) / _HALF_LIFE_S)
        return self.drain_s(images) * doubt

    def observe(self, images: int, seconds: float, now_s: float) -> None:
        """Learn from a batch that has run; only one thread may call this.

        Args:
            seconds: that it took, or would have taken alone.
        """
        ratio = seconds / self._seconds[images]
        ratio = max(_SMALLEST_RATIO, min(ratio, _LARGEST_SURPRISE * self._factor))
        self._excess += (max(0.0, ratio - self._mean) - self._excess) * _WEIGHT
        self._mean += (ratio - self._mean) * _WEIGHT
        self._factor = self._mean + _EXCESSES * self._excess
        self._observed_s = now_s


class LoopBudget:
    """Which batches of a tiny network the event loop may run itself.

    What batches take is what was measured at load, times the mean ratio of those that the event loop has run.
    Those that lanes ran say nothing here: they also wait for the interpreter's lock.

    Args:
        max_s: how long the event loop may be held.
    """

    def __init__(self, profile: LatencyProfile, max_s: float) -> None:
        self._profile = profile
        self._max_s = max_s
        self._mean = 1.0
        self._observed_s = -math.inf

    def fits(self, images: int, now_s: float) -> bool:
        """Return whether it may run all images that wait; of many, handing over is a small part of the price.

        What was observed is believed the less the longer nothing ran: else what it rules out would never be
        tried again.
        """
        if not 0 < images <= self._profile.largest:
            return False
        doubt: float = 0.5 ** ((now_s - self._observed_s) / _HALF_LIFE_S)
        return self._profile.measured_s(images) * (1.0 + (self._mean - 1.0) * doubt) <= self._max_s

    def observe(self, images: int, seconds: float, now_s: float) -> None:
        """Learn from a batch that the event loop has run."""
        ratio = min(seconds / self._profile.measured_s(images), _LARGEST_SURPRISE * max(1.0, self._mean))
        self._mean += (ratio - self._mean) * _WEIGHT
        self._observed_s = now_s
