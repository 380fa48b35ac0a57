"""What libraries, and Python itself, would write to standard error by themselves: events of the log instead.

Installed by processes, once each. Native libraries write to the descriptor; where every line has to be
JSON, that is a pipe which a thread reads.
"""

import asyncio
import faulthandler
import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, cast

from structlog.typing import FilteringBoundLogger

_STDERR = 2
_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 4096  # of a line without an end; the log shows the beginning


def divert_python(log: FilteringBoundLogger) -> None:
    """Have logging, warnings and what nothing catches become events."""
    root = logging.getLogger()
    root.handlers[:] = [_Handler(log)]
    root.setLevel(logging.WARNING)
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)

    def uncaught(_kind: type[BaseException], error: BaseException, _traceback: object) -> None:
        log.critical("uncaught_exception", exc_info=error)

    def thread_ended(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread else ""
            log.error("thread_ended", thread=name, exc_info=args.exc_value)

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        log.error("unraisable_exception", where=args.err_msg or repr(args.object), exc_info=args.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = thread_ended
    sys.unraisablehook = unraisable


def loop_errors(
    log: FilteringBoundLogger,
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]:
    """Make an event loop's exception handler: for errors of callbacks and tasks that nothing awaits."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error("event_loop_error", message=context.get("message", ""), exc_info=context.get("exception"))

    return handle


class StandardError:
    """Standard error as a pipe; its lines become events, until `restore`.

    Attributes:
        stream: what standard error was: for the log itself.
    """

    def __init__(self) -> None:
        try:
            fd = os.dup(_STDERR)
        except OSError:  # closed by whatever started this process
            fd = os.open(os.devnull, os.O_WRONLY)
        self.stream: TextIO = os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace")
        self._thread: threading.Thread | None = None

    def divert(self, log: FilteringBoundLogger, *, python: bool = True) -> None:
        """Begin; a crash of the process, a segmentation fault say, is still written as plain text.

        Args:
            python: whether what Python writes becomes events, too, and not only what native libraries do.
        """
        faulthandler.enable(self.stream)
        ours, theirs = os.pipe()
        # Full, it loses lines: a library that waited here for its reader could hold what that needs.
        os.set_blocking(theirs, False)
        os.dup2(theirs, _STDERR)
        os.close(theirs)
        sys.stderr = cast("TextIO", _LineStream(log)) if python else self.stream
        self._thread = threading.Thread(target=_read, args=(ours, log), name="stderr", daemon=True)
        self._thread.start()

    def restore(self) -> None:
        """End, when all that was written has been read."""
        if self._thread is None:
            return
        os.dup2(self.stream.fileno(), _STDERR)
        self._thread.join(1.0)  # others that inherited the pipe may keep it open
        self._thread = None


class _Handler(logging.Handler):
    """Makes an event of a record."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the format
            message = str(record.msg)
        report = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        error = record.exc_info[1] if record.exc_info else None
        report("library_message", library=record.name, message=message, exc_info=error)


class _LineStream(io.TextIOBase):
    """What `sys.stderr` is meanwhile: every line written to it is an event."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, begun = (self._begun + text).split("\n")
        self._begun = begun[:_MAX_LINE_BYTES]
        for line in lines:
            _tell(self._log, line)
        return len(text)


def _read(fd: int, log: FilteringBoundLogger) -> None:
    begun = b""
    while chunk := os.read(fd, _READ_BYTES):
        *lines, begun = (begun + chunk).split(b"\n")
        begun = begun[:_MAX_LINE_BYTES]
        for line in lines:
            _tell(log, line.decode("utf-8", "backslashreplace"))
    _tell(log, begun.decode("utf-8", "backslashreplace"))
    os.close(fd)


def _tell(log: FilteringBoundLogger, line: str) -> None:
    if line.strip():
        log.warning("stderr", text=line)
