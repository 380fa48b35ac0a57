"""What this machine has: cores that we may use, memory that we take."""

import ctypes
import gc
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SMAPS = Path("/proc/self/smaps_rollup")
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def core_count(cgroup: Path = _CGROUP) -> int:
    """Count the cores that this process may use: its affinity, cut by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    return cores if quota is None else max(1, min(cores, int(quota)))


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


def cpu_quota(cgroup: Path) -> float | None:
    """Read how many cores a control group may keep busy; None where there is no limit.

    Args:
        cgroup: its folder: with ``cpu.max`` in version 2, with ``cpu/cpu.cfs_*_us`` in version 1.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text("ascii").strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text("ascii").strip()
        except OSError:
            return None
    if quota == "max" or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def resident_memory_bytes() -> int:
    """Measure the memory of this process, files and libraries included."""
    return int(_STATM.read_text("ascii").split()[1]) * _PAGE_BYTES


def give_back_freed_memory() -> None:
    """Have the C library give memory that was freed back to the system; it keeps it for the next request."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl gives memory back by itself
    if trim is not None:
        trim(0)
