"""What processes take is counted for their children too; a process of our own does what it is told."""

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from bench.errors import BenchError
from bench.measured import processes
from bench.measured.workers import Worker

# Burns half a second of processor time, says so, and waits for its input to end.
BURN = (
    "import sys, time\nwhile time.process_time() < 0.5: pass\nprint('burnt', flush=True)\nsys.stdin.read()\n"
)
PARENT = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {BURN!r}])\n"
    "memory = b'x' * 50_000_000\n"
    "child.wait()\n"
)


def test_a_process_and_its_children_are_counted_together() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "burnt\n"
        assert 0.5 <= processes.cpu_s(process.pid) < 30
        alone = processes.memory_bytes(os.getpid())
        assert processes.memory_bytes(process.pid) > 50_000_000
        assert processes.memory_bytes(os.getpid()) > alone / 2 + 50_000_000
        process.stdin.close()


def test_there_must_be_such_a_process() -> None:
    code = "import os; print(os.getpid())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    for measure in (processes.cpu_s, processes.memory_bytes):
        with pytest.raises(BenchError, match="there is no process"):
            measure(int(ended.stdout))


def test_a_worker_calls_functions_in_a_process_of_its_own() -> None:
    with Worker() as worker:
        assert worker.call(math.hypot, 3, 4) == 5
        assert worker.call(os.getpid) not in {os.getpid(), None}
        assert worker.call(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        (math.sqrt, (-1,), "math domain error|nonnegative"),
        (int, ("many",), "invalid literal"),
        (open, ("/nowhere/at/all",), "No such file"),
        (__import__, ("threading",), "cannot pickle"),
    ],
)
def test_what_goes_wrong_there_is_said_here_and_the_worker_goes_on(
    function: Callable[..., object], arguments: tuple[object, ...], reason: str
) -> None:
    with Worker() as worker:
        with pytest.raises(BenchError, match=reason):
            worker.call(function, *arguments)
        assert worker.call(len, "four") == 4


def test_a_worker_that_ends_is_noticed() -> None:
    with Worker() as worker:
        with pytest.raises(BenchError, match="the process that measured has ended"):
            worker.call(os._exit, 3)
        with pytest.raises(BenchError, match="the process that measured has ended"):
            worker.call(len, "four")
