"""What a process and those it started have taken of the machine, out of `/proc`."""

import os
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Give the processor time that a process and its children have used, in steps of 10 ms.

    Raises:
        BenchError: there is no such process.
    """
    # utime, stime, and those of children that have ended: fields 14 to 17 of proc(5), here after the third.
    return sum(sum(map(int, fields[11:15])) for fields in _family(pid)) * _TICK_S


def memory_bytes(pid: int) -> int:
    """Give the memory that a process and its children have in use (resident set).

    Raises:
        BenchError: there is no such process.
    """
    return sum(int(fields[21]) for fields in _family(pid)) * os.sysconf("SC_PAGE_SIZE")  # field 24


def processor() -> str:
    """Give the processor's name; empty where the system does not tell."""
    for line in (_PROC / "cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def _family(pid: int) -> Iterator[list[str]]:
    """Yield the fields after the name of the status of a process and of all its descendants."""
    everybody = {
        int(path.name): fields
        for path in _PROC.iterdir()
        if path.name.isdecimal() and (fields := _status(path)) is not None
    }
    if pid not in everybody:
        raise BenchError(f"there is no process {pid}")
    family = [pid]
    for member in family:  # grows while it is walked
        yield everybody[member]
        family += [child for child, fields in everybody.items() if int(fields[1]) == member]


def _status(path: Path) -> list[str] | None:
    try:
        # The name, in brackets, may hold anything, brackets and blanks included.
        return (path / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return None
