"""How artifacts are executed: ONNX Runtime's options as plain data, and the cores of this machine.

The exporter proves and times a file, the server serves it, the bench compares the two: with the same options.
Each puts them into an `onnxruntime.SessionOptions` of its own; readers of artifacts do without that library.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")

LOG_SEVERITY_FATAL = 4  # what goes wrong is raised, and need not be printed too

# What changes answers. Without VNNI, sums of two 8-bit products saturate in 16 bits, unless the weights are
# made unsigned: digits that int8 kept within 0.07 of fp32 were 0.66 off, and 4 % of them another digit.
ANSWER_OPTIONS: Mapping[str, str] = {"session.x64quantprecision": "1"}

# What a session has beside, to be served.
SESSION_OPTIONS: Mapping[str, str] = {
    **ANSWER_OPTIONS,
    # A thread that waits for its part of a run spins; between runs it would burn the core that decodes.
    "session.force_spinning_stop": "1",
    # Bytes of a constant that is computed while loading: a few bytes of graph can ask for gigabytes.
    "optimization.constant_folding_max_output_size_in_bytes": str(64 << 20),
}

# Beside those, on a CUDA device: fail where a node would run on the CPU.
CUDA_SESSION_OPTIONS: Mapping[str, str] = {"session.disable_cpu_ep_fallback": "1"}
# Of the CUDA provider: choose convolutions without trying all, and in the layout of tensor cores.
CUDA_PROVIDER_OPTIONS: Mapping[str, str] = {"cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "1"}

# Networks with fewer multiply-adds an image took longer on two threads than on one, up to batches of 16
# (docs/adr/0008-two-lanes-share-a-pool.md).
_SPLIT_MACS = 1e6


def threads(macs: float, cores: int) -> int:
    """Return the threads that one run of a network is split over: one for a tiny one.

    Args:
        macs: multiply-adds of one image; 0 where they are not known.
        cores: that one run may have.
    """
    return 1 if 0 < macs < _SPLIT_MACS else cores


def core_count(cgroup: Path = _CGROUP) -> int:
    """Count the cores that this process may use: its affinity, cut by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    return cores if quota is None else max(1, min(cores, int(quota)))


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


def processor() -> str:
    """Name the processor, as the system does."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
