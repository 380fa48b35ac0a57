"""Processes of their own for what must not disturb, or be disturbed."""

import gc
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from bench.errors import BenchError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Worker:
    """A process that calls functions, one at a time; to be closed after use."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit gRPC's threads, half of them
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._ours.close()

    def call(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Call a function there. What goes in and comes out must survive pickling.

        Raises:
            BenchError: the function raised, or the process ended.
        """
        try:
            self._ours.send((function, arguments, named))
            result, complaint = self._ours.recv()
        except (EOFError, OSError) as error:
            raise BenchError("the process that measured has ended") from error
        if complaint is not None:
            raise BenchError(complaint)
        return result  # type: ignore[no-any-return] # what the function returned there


def _work(theirs: "Connection[Any, Any]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends this one
    with suppress(EOFError):
        while True:
            function, arguments, named = theirs.recv()
            # Else a collection in the middle of a load would walk through all that the libraries hold.
            gc.collect()
            gc.freeze()
            try:
                theirs.send((function(*arguments, **named), None))
            except Exception as error:  # noqa: BLE001 - it is for the other process
                theirs.send((None, str(error).strip() or type(error).__name__))
