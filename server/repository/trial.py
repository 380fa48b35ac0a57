"""A graph in a process of its own first, where only running it shows what it takes.

Memory and time of that process are bounded by the kernel; if it fails, hangs or crashes, the server goes on.
Run as ``python -m server.repository.trial PATH H W C BYTES N...``: the sizes of the batches come last.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from artifact.errors import UnsafeGraphError, first_line, printable
from server.runtime.device import Device, open_session

_SETUP_BYTES = 256 << 20  # of ONNX Runtime itself: threads, arenas, kernels


def require(
    path: Path, shape: tuple[int, int, int], sizes: Sequence[int], max_bytes: int, timeout_s: float
) -> None:
    """Require that a graph runs within its limits.

    Args:
        shape: of an image, ``[H, W, C]``.
        sizes: of the batches to run.
        max_bytes: of memory beyond what ONNX Runtime itself takes.

    Raises:
        UnsafeGraphError: it does not.
    """
    numbers = map(str, (*shape, max_bytes, *sizes))
    command = [sys.executable, "-m", "server.repository.trial", str(path), *numbers]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, with a path and numbers
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnsafeGraphError(
            f"{path.name}: its trial timed out after {timeout_s:g} s (setting load_timeout_s)"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines and done.returncode > 0 else f"ended with signal {-done.returncode}"
        reason = reason.replace(str(path), path.name)  # clients need not know where it lies
        raise UnsafeGraphError(
            printable(
                f"{path.name}: its trial within {max_bytes} bytes (setting max_model_bytes) failed: {reason}"
            )
        )


def main() -> None:
    """Run a graph once at every size; end with 1 and a line that says why where that fails."""
    path, *given = sys.argv[1:]
    height, width, channels, max_bytes, *sizes = map(int, given)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])  # of data and stack
    bound = pages * resource.getpagesize() + _SETUP_BYTES + max_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        session = open_session(Path(path), Device("cpu", None, 1))
        name = session.get_inputs()[0].name
        for size in sizes:
            session.run(None, {name: np.zeros((size, height, width, channels), np.uint8)})
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's, whatever it is
        sys.exit(first_line(error))


if __name__ == "__main__":
    main()
