"""Commands as a user gives them: processes of their own, in an empty folder."""

import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.process import Run, Show

_STYLE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `modelzoo` in an empty folder, its output piped; environment variables by keyword."""

    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            _command(arguments),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=_inherited() | environment,
            check=False,
        )

    return run


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Run `modelzoo` on a terminal of so many columns; give the lines that stand there in the end.

    Environment variables by keyword.
    """

    def show(columns: int, *arguments: object, **environment: str) -> list[str]:
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (50, columns))
        with subprocess.Popen(
            _command(arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
            env=_inherited() | {"TERM": "xterm"} | environment,
        ):
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return _STYLE.sub("", shown.decode()).splitlines()

    return show


def _command(arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


def _inherited() -> dict[str, str]:
    """Give the environment, without what would change what a command does or prints."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MODELZOO_") and name not in {"COLUMNS", "LINES"}
    }


def _read(terminal: int) -> bytes:
    """Give what was written to a terminal; nothing once nobody can write to it any more."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so by an error, not by an end
        return b""
