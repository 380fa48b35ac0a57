"""Standard output and error of a command: a reader that leaves and a full disk end it in order."""

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO

_SIGPIPE = 128 + 13  # what a shell reports of a program that ended because nothing reads its output


class Stream(io.TextIOBase):
    """A standard stream of the process.

    Where standard output cannot be written, the process ends: without a word, and as other programs do, if
    its reader has left, else with one line. Where standard error cannot, the text is lost, and that is all.

    Args:
        stream: None where the descriptor was closed when the process started.
        descriptor: 1 or 2.
    """

    def __init__(self, stream: TextIO | None, descriptor: int) -> None:
        self._stream = stream
        self._descriptor = descriptor

    @property
    def encoding(self) -> str:  # type: ignore[override] # a plain attribute in the stubs
        """Return the stream's encoding."""
        return self._stream.encoding if self._stream is not None else "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override] # the same
        """Return how characters that the encoding lacks are written."""
        return self._stream.errors if self._stream is not None else None

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Return the stream of bytes underneath."""
        if self._stream is None:
            raise AttributeError("buffer")
        return self._stream.buffer  # type: ignore[return-value] # a BinaryIO in the stubs

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            if self._stream is None:
                raise OSError(None, "bad file descriptor")
            self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Hand what was written to the system."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._descriptor != 1:
            return  # a log may find room on its disk again
        # What is buffered would fail once more while the interpreter ends, and be reported there.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)
        _end(error)


def _end(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        raise SystemExit(_SIGPIPE)
    reason = (error.strerror or str(error)).lower()
    sys.stderr.write(f"modelzoo: cannot write standard output: {reason}\n")
    raise SystemExit(1)


def install() -> None:
    """Put such streams in the place of the process's own."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file or socket would get the number, and what libraries print
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = Stream(sys.stdout, 1), Stream(sys.stderr, 2)
