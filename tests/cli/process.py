"""What tests of the command line share: how a command ended."""

import subprocess
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Show = Callable[..., list[str]]


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    """Check that a command refused in one line, and give the line."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("modelzoo: ")
    return line
