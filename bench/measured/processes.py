"""What a process and those it started have taken of the machine."""

from collections.abc import Callable

import psutil

from bench.errors import BenchError


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its children have used, in steps of 10 ms.

    Raises:
        BenchError: there is no such process.
    """
    # `children_user`, `children_system`: of children that have ended.
    return _total(pid, lambda process: sum(process.cpu_times()[:4]))


def memory_bytes(pid: int) -> int:
    """Return the memory that a process and its children have in use (resident set).

    Raises:
        BenchError: there is no such process.
    """
    return int(_total(pid, lambda process: process.memory_info().rss))


def family(pid: int) -> list[int]:
    """List a process and all its descendants.

    Raises:
        BenchError: there is no such process.
    """
    return [process.pid for process in _family(pid)]


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess as error:
        raise BenchError(f"there is no process {pid}") from error


def _total(pid: int, figure: Callable[[psutil.Process], float]) -> float:
    total = 0.0
    for process in _family(pid):
        try:
            total += figure(process)
        except psutil.NoSuchProcess as error:  # it has ended meanwhile
            if process.pid == pid:
                raise BenchError(f"there is no process {pid}") from error
    return total
