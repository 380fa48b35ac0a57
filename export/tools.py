"""What exported: the versions of the libraries, and the machine."""

import importlib.metadata
import os
import platform
from pathlib import Path

_LIBRARIES = (
    "numpy", "onnx", "onnxruntime-gpu", "onnxscript", "pillow", "scikit-learn", "torch", "torchvision"
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of the libraries that write artifacts, by package name."""
    return {library: importlib.metadata.version(library) for library in _LIBRARIES}


def core_count() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Name the processor, as the system does."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
