"""What a process and those it started have taken of the machine, out of `/proc`."""

import os
from pathlib import Path

from bench.errors import BenchError

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its children have used, in steps of 10 ms.

    Raises:
        BenchError: there is no such process.
    """
    # utime, stime, and those of children that have ended: fields 14 to 17 of proc(5), here after the third.
    return sum(sum(map(int, fields[11:15])) for fields in _family(pid).values()) * _TICK_S


def memory_bytes(pid: int) -> int:
    """Return the memory that a process and its children have in use (resident set).

    Raises:
        BenchError: there is no such process.
    """
    return sum(int(fields[21]) for fields in _family(pid).values()) * os.sysconf("SC_PAGE_SIZE")  # field 24


def processor() -> str:
    """Return the processor's name; empty where the system does not tell."""
    for line in (_PROC / "cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def family(pid: int) -> list[int]:
    """List a process and all its descendants.

    Raises:
        BenchError: there is no such process.
    """
    return list(_family(pid))


def _family(pid: int) -> dict[int, list[str]]:
    """Return the fields after the name of the status of a process and of all its descendants."""
    running = {
        int(path.name): fields
        for path in _PROC.iterdir()
        if path.name.isdecimal() and (fields := _status(path)) is not None
    }
    if pid not in running:
        raise BenchError(f"there is no process {pid}")
    members = [pid]
    for member in members:  # grows while it is walked
        members += [child for child, fields in running.items() if int(fields[1]) == member]
    return {member: running[member] for member in members}


def _status(path: Path) -> list[str] | None:
    try:
        # The name, in brackets, may hold anything, brackets and blanks included.
        return (path / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return None
