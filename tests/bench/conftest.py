"""What the tests of measurements share: the command, and digits to measure with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAME = "simple_cnn-digits"


Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(repository: Path, tmp_path: Path) -> Bench:
    """Run `modelzoo bench` on a model, with the shortest of loops; environment variables by keyword."""

    def run(*arguments: object, model: str = NAME, **environment: str) -> "subprocess.CompletedProcess[str]":
        usual = ("--repository", repository, "--seconds", 0.3, "--rounds", 2)
        return subprocess.run(
            [sys.executable, "-m", "cli.main", "bench", model, *map(str, (*usual, *arguments))],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"MODELZOO_DEVICE": "cpu"} | environment,
            check=False,
        )

    return run


@pytest.fixture
def measured(bench: Bench) -> Callable[..., dict[str, Any]]:
    """Run it, and give its figures; every request must have had a right answer."""

    def run(*arguments: object, **environment: str) -> dict[str, Any]:
        done = bench(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr
        [figures] = json.loads(done.stdout)
        return figures

    return run
