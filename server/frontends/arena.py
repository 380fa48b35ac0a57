"""The memory that a front end and the engine share: pixels go one way in it and probabilities the other.

It is a memfd, which no limit on /dev/shm concerns. The front end alone gives out space in it (`Space`), so no
lock is needed; both look at it through arrays (`Arena`).
"""

import fcntl
import math
import mmap
import os
from bisect import bisect_left

import numpy as np

from artifact.pictures import Pixels
from server.inference import Probabilities

_NAME = "modelzoo-frontend"  # as /proc/<pid>/maps shows it
_ALIGNMENT_BYTES = 64  # a line of the processor's cache
# Of what has shrunk, a mapping ends the process.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create(size_bytes: int) -> int:
    """Make the memory, of which only what was ever used takes any; give its file descriptor."""
    file = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size_bytes)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


class Arena:
    """The memory, as one process sees it; from when it is made until it is closed.

    Args:
        file: its descriptor, which may be closed afterwards.
        size_bytes: of it; whole lines of the processor's cache.
    """

    def __init__(self, file: int, size_bytes: int) -> None:
        memory = mmap.mmap(file, size_bytes)
        self._bytes: Pixels = np.frombuffer(memory, np.uint8)
        self._floats: Probabilities = np.frombuffer(memory, np.float32)

    def pixels(self, offset: int, shape: tuple[int, int, int, int]) -> Pixels:
        """Look at images, uint8 ``[N, H, W, C]``."""
        return self._bytes[offset : offset + math.prod(shape)].reshape(shape)

    def probabilities(self, offset: int, shape: tuple[int, int]) -> Probabilities:
        """Look at an answer, float32 ``[N, K]``."""
        start = offset // self._floats.itemsize
        return self._floats[start : start + math.prod(shape)].reshape(shape)

    def close(self) -> None:
        """Look no more; the memory is given back once no array is left that does."""
        del self._bytes, self._floats


class Space:
    """Which parts of a memory are free: the first that is large enough is taken.

    Attributes:
        size_bytes: of the memory.
        free_bytes: of it that are free, not necessarily in one piece.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self.free_bytes = size_bytes - size_bytes % _ALIGNMENT_BYTES
        # Free parts, in order, never two that touch: where they begin, and where they end.
        self._starts = [0]
        self._stops = [self.size_bytes]
        self._taken: dict[int, int] = {}  # where parts that are taken end, by where they begin

    def take(self, size_bytes: int) -> int | None:
        """Take a part; give where it begins, or None where no free part is large enough."""
        size = aligned(max(1, size_bytes))
        for index, start in enumerate(self._starts):
            if self._stops[index] - start >= size:
                if self._stops[index] - start == size:
                    del self._starts[index], self._stops[index]
                else:
                    self._starts[index] += size
                self._taken[start] = start + size
                self.free_bytes -= size
                return start
        return None

    def give_back(self, start: int) -> None:
        """Free a part that was taken."""
        stop = self._taken.pop(start)
        self.free_bytes += stop - start
        index = bisect_left(self._starts, start)
        joins_before = index > 0 and self._stops[index - 1] == start
        joins_after = index < len(self._starts) and self._starts[index] == stop
        if joins_before and joins_after:
            self._stops[index - 1] = self._stops[index]
            del self._starts[index], self._stops[index]
        elif joins_before:
            self._stops[index - 1] = stop
        elif joins_after:
            self._starts[index] = start
        else:
            self._starts.insert(index, start)
            self._stops.insert(index, stop)


def aligned(size_bytes: int) -> int:
    """Round a size up, so that what comes behind it begins with a line of the processor's cache."""
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
