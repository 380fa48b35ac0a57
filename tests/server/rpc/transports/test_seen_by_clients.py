"""What clients see is the same over h2corn: the short form of `make test-transport`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
SEEN = ("client", "server/services")


@pytest.mark.slow
def test_what_clients_see_is_the_same_over_h2corn() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "--transport", "h2corn", *(f"tests/{path}" for path in SEEN)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
