"""A network on a CUDA device, of which two batches are on their way at any time.

Every batch size has two sets of fixed buffers and every set a captured CUDA graph, so that a changed batch
size plans nothing anew, and the copy of one batch to the device overlaps with the run of the other.
"""

import itertools
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from artifact.pictures import Pixels
from server.inference import Probabilities, Rows
from server.runtime.cuda import Cuda, Event, Stream

_SETS = 2  # one is filled while the other runs
_WARM_UPS = 4  # two plain runs, the capture, one replay


class Bound(Protocol):
    """Device memory for one set, and the graph that runs on it.

    Attributes:
        rows: pointer to uint8 ``[N, H, W, C]``.
        answers: pointer to float32 ``[N, K]``.
    """

    rows: int
    answers: int

    def run(self) -> None:
        """Queue the network on the session's stream; the graph is captured at the third time."""


class GraphSession(Protocol):
    """A session that captures graphs, and runs on one stream.

    Attributes:
        stream: where its work is queued.
    """

    stream: Stream

    def bind(self, rows: tuple[int, ...], answers: tuple[int, ...], graph_id: int) -> Bound:
        """Take device memory of these shapes, for a graph of its own.

        Args:
            graph_id: no other set's: two sets under one id would run on the first one's memory, silently.
        """


@dataclass
class _Set:
    """Where one batch lives from its first row to its answers."""

    rows: Pixels  # [N, H, W, C], pinned
    answers: Probabilities  # [N, K], pinned
    bound: Bound
    copied: Event  # the rows have reached the device
    done: Event  # the answers have reached the host
    busy: bool = False


@dataclass(frozen=True)
class Started:
    """A batch on its way."""

    set: _Set
    count: int


class PipelinedNetwork:
    """A network that starts and finishes batches apart; all calls come from the lane's thread.

    Args:
        shape: height, width, channels of an image.
        label_count: K.
        batch_sizes: that a batch may be padded up to.

    Raises:
        Exception: ONNX Runtime's own, where a graph cannot be captured.
        DeviceError: the device has no memory for the buffers.
    """

    depth = _SETS

    def __init__(
        self,
        session: GraphSession,
        cuda: Cuda,
        shape: tuple[int, int, int],
        label_count: int,
        batch_sizes: Sequence[int],
    ) -> None:
        self._session = session
        self._cuda = cuda
        self._copies = cuda.stream()
        self._pinned: list[Pixels | Probabilities] = []
        self._events: list[Event] = []
        self._sets: dict[int, list[_Set]] = {}
        graph_ids = itertools.count(1)
        try:
            for size in sorted(set(batch_sizes), reverse=True):  # the largest takes the memory that all share
                self._sets[size] = [
                    self._capture(size, shape, label_count, next(graph_ids)) for _ in range(_SETS)
                ]
        except Exception:
            self.close()
            raise

    def infer(self, rows: Rows) -> Probabilities:
        """Answer one batch; see `Network.infer`."""
        return self.finish(self.start(rows))

    def start(self, rows: Rows) -> Started:
        """Queue a batch on the device; at most `depth` of them before the first is finished.

        Raises:
            DeviceError: the device failed.
            Exception: ONNX Runtime's own.
        """
        size = min(size for size in self._sets if size >= len(rows))
        sets = self._sets[size]
        chosen = sets.pop(0)
        sets.append(chosen)  # by turns
        if chosen.busy:
            raise RuntimeError(f"both sets of batch size {size} are on their way. This is a bug.")
        if isinstance(rows, np.ndarray):
            chosen.rows[: len(rows)] = rows
        else:
            for seat, row in zip(chosen.rows, rows, strict=False):
                seat[...] = row
        cuda = self._cuda
        cuda.copy_in(chosen.bound.rows, chosen.rows, self._copies)
        cuda.record(chosen.copied, self._copies)
        cuda.wait(self._session.stream, chosen.copied)
        chosen.bound.run()
        cuda.copy_out(chosen.answers, chosen.bound.answers, self._session.stream)
        cuda.record(chosen.done, self._session.stream)
        chosen.busy = True
        return Started(chosen, len(rows))

    def finish(self, started: Started) -> Probabilities:
        """Wait for a batch that was started; give its answers, float32 ``[N, K]``.

        Raises:
            DeviceError: the device failed.
        """
        started.set.busy = False
        self._cuda.synchronize(started.set.done)
        answers: Probabilities = started.set.answers[: started.count].copy()
        return answers

    def close(self) -> None:
        """Return back what the device and the host hold for it; nothing may be on its way."""
        self._cuda.synchronize_stream(self._session.stream)
        self._sets.clear()
        for array in self._pinned:
            self._cuda.unpin(array)
        self._pinned.clear()
        self._cuda.release([self._copies], self._events)
        self._events.clear()

    def _capture(self, size: int, shape: tuple[int, int, int], label_count: int, graph_id: int) -> _Set:
        rows: Pixels = _own_pages((size, *shape), np.uint8)
        answers: Probabilities = _own_pages((size, label_count), np.float32)
        for array in (rows, answers):
            self._cuda.pin(array)
            self._pinned.append(array)
        copied, done = self._cuda.event(), self._cuda.event()
        self._events += [copied, done]
        bound = self._session.bind(rows.shape, answers.shape, graph_id)
        for _ in range(_WARM_UPS):
            bound.run()
            self._cuda.synchronize_stream(self._session.stream)
        return _Set(rows, answers, bound, copied, done)


def _own_pages(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Make an array of zeros that shares no page of memory: pages are pinned whole, and only once."""
    size_bytes = math.prod(shape) * np.dtype(kind).itemsize
    memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, kind).reshape(shape)
