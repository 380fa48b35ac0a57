"""A front end as a process: a fresh interpreter with an end of a connection and a shared memory.

It is never a fork of the engine: neither gRPC, ONNX Runtime nor CUDA survives one.
"""

import os
import signal
import socket
import subprocess
import sys

_MODULE = "server.frontend"
_REAP_S = 5.0  # from the end of the connection to the end of the process


class Child:
    """A process that runs until the other end of its connection is closed, or it is killed.

    Args:
        end: its end of the connection; closed here.
        memory: descriptor of the shared memory.
        stderr: descriptor that its log goes to; None for this process's standard error.
    """

    def __init__(self, end: socket.socket, memory: int, stderr: int | None = None) -> None:
        files = (end.fileno(), memory)
        with end:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-P", "-m", _MODULE, *map(str, files)],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=files,
                # The same code, wherever this process has it from. A Ctrl-C in a terminal is for this process
                # alone, which tells the others.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> str:
        """Wait for the end, which is near, and say what it was; it blocks."""
        try:
            code = self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        return f"signal {-code} ({signal.Signals(-code).name})"
