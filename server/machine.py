"""The memory of this process, as the system counts it."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SMAPS = Path("/proc/self/smaps_rollup")
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BLOCK_BYTES, _KEPT_BYTES = 32 << 20, 256 << 20


@contextmanager
def lasting() -> Iterator[None]:
    """Collect no garbage while what lasts as long as the process is made, modules above all, nor ever in it.

    A collection walks through all that there is: hundreds of thousands of objects of the libraries.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def host_memory_bytes() -> int:
    """Measure the memory that this process alone occupies on the host, without files and libraries.

    Freed memory is first given back to the system; without that, a model loaded into the holes that
    another left would seem to cost nothing.
    """
    gc.collect()
    give_back_freed_memory()
    for line in _SMAPS.read_text("ascii").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_SMAPS} has no line 'Anonymous:'")


def resident_memory_bytes() -> int:
    """Measure the memory of this process, files and libraries included."""
    return int(_STATM.read_text("ascii").split()[1]) * _PAGE_BYTES


def keep_freed_memory() -> None:
    """Have the C library keep what large requests free for the next ones, until it is given back.

    By itself it takes what is large from the system for each, a page fault for every 4 kB, up to a size that
    it learns; where few large blocks are freed on the thread that took them, it learns too late.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Have the C library give memory that was freed back to the system; it keeps it for the next request."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl gives memory back by itself
    if trim is not None:
        trim(0)
