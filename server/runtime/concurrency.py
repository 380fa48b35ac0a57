"""Runs of a session: one alone has all threads of its pool, those at the same time share them.

ONNX Runtime has no such choice, but a run that is handed to the pool itself (`run_async`) keeps one of its
threads busy, and a thread that is busy helps no other run: of two runs on a pool
of two, each has one thread.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Arrays = Sequence[npt.NDArray[Any]]
Inputs = Mapping[str, npt.NDArray[np.uint8]]


class Occupancy:
    """How much runs on a device now.

    Attributes:
        lock: guards this and the counts of all `Runs` of the device.
        runs: of all sessions.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs = 0


class Runs:
    """Runs a session; threads share it.

    Args:
        threads: of the session's pool, the caller of a run included.
        occupancy: of the device, which all its sessions share.

    Attributes:
        options: of every run; None for ONNX Runtime's own.
    """

    def __init__(self, session: onnxruntime.InferenceSession, threads: int, occupancy: Occupancy) -> None:
        self._session = session
        self._own_threads = threads - 1  # of the pool, without the caller
        self._occupancy = occupancy
        self._by_caller = self._in_pool = 0
        self.options: onnxruntime.RunOptions | None = None

    def run(self, outputs: Sequence[str], inputs: Inputs) -> Arrays:
        """Run, as `InferenceSession.run` does.

        Raises:
            Exception: ONNX Runtime's own; a RuntimeError with its message, where the pool ran.
        """
        with self._counted() as in_pool:
            if in_pool:
                return self._run_in_pool(outputs, inputs)
            arrays: Arrays = self._session.run(outputs, inputs, self.options)
            return arrays

    @contextmanager
    def _counted(self) -> Iterator[bool]:
        """Count a run while it lasts; decide whether it is the pool's."""
        with self._occupancy.lock:
            in_pool = (
                self._occupancy.runs > 0
                # Where all of its runs are the pool's, the thread of another caller is one more for them.
                and (self._by_caller > 0 or self._in_pool == 0)
                and self._in_pool < self._own_threads
            )
            self._count(1, in_pool=in_pool)
        try:
            yield in_pool
        finally:
            with self._occupancy.lock:
                self._count(-1, in_pool=in_pool)

    def _count(self, runs: int, *, in_pool: bool) -> None:
        self._occupancy.runs += runs
        if in_pool:
            self._in_pool += runs
        else:
            self._by_caller += runs

    def _run_in_pool(self, outputs: Sequence[str], inputs: Inputs) -> Arrays:
        future: Future[Arrays] = Future()

        def ended(arrays: Arrays, _: object, error: str) -> None:
            if error:
                future.set_exception(RuntimeError(error))
            else:
                future.set_result(arrays)

        self._session.run_async(outputs, inputs, ended, None, self.options)
        return future.result()
