"""Where lines of the log go: to a stream that may be slow, full or gone, which costs lines and nothing else.

A thread of its own writes to what has a file descriptor, because a pipe without a reader blocks its writers.
"""

import contextlib
import os
import select
import threading
import time
from collections import Counter, deque
from typing import Literal, TextIO

Reason = Literal["failed", "full", "suppressed", "unwritable"]
REASONS: tuple[Reason, ...] = ("failed", "full", "suppressed", "unwritable")

_MAX_WAITING_BYTES = 1 << 20  # some thousand lines
_POLL_MS = 1000  # until a stream that is not ready is tried again


class Drops:
    """Counts the events that were not written, by reason; on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Reason] = Counter()

    def count(self, reason: Reason) -> None:
        """Count one."""
        with self._lock:
            self._counts[reason] += 1

    def __getitem__(self, reason: Reason) -> int:
        return self._counts[reason]


class LineSink:
    """Takes whole lines, on any thread, and never raises nor waits.

    Args:
        stream: written to at once where it has no file descriptor, as those of tests.

    Attributes:
        drops: what was not written, and why.
        fd: of the stream; None where it has none.
    """

    def __init__(self, stream: TextIO, drops: Drops) -> None:
        self.drops = drops
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self.fd: int | None = None
        with contextlib.suppress(OSError, AttributeError, ValueError):
            self.fd = stream.fileno()
        if self.fd is not None:
            threading.Thread(target=self._keep, args=(self.fd,), name="log", daemon=True).start()

    def msg(self, line: str) -> None:
        """Write a line, which has no end yet."""
        if self.fd is None:
            try:
                self._stream.write(line + "\n")
            except Exception:  # noqa: BLE001 - a log that cannot be written ends nothing
                self.drops.count("unwritable")
            return
        data = (line + "\n").encode("utf-8", "backslashreplace")
        with self._changed:
            if self._waiting_bytes + len(data) > _MAX_WAITING_BYTES:
                self.drops.count("full")
                return
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify_all()

    # The names under which structlog calls it, one for each level.
    debug = info = warning = error = critical = exception = msg

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written; give up after some time.

        Returns:
            Whether it is.
        """
        ends_s = time.monotonic() + timeout_s
        with self._changed:
            while self._waiting:
                if not self._changed.wait(max(0.0, ends_s - time.monotonic())) and time.monotonic() >= ends_s:
                    return False
        return True

    def _keep(self, fd: int) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                data = self._waiting[0]
            try:
                _write(fd, data)
            except Exception:  # noqa: BLE001 - this thread is the only one that writes
                self.drops.count("unwritable")
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(data)
                self._changed.notify_all()


def _write(fd: int, data: bytes) -> None:
    """Write all, in one piece where the stream takes it.

    Raises:
        OSError: it cannot be written: the disk is full, or the other end of the pipe is gone.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # another process made the stream so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll(_POLL_MS)
