"""What clients see is the same over h2corn: the short form of `make test-transport`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SEEN = ("client", "server/services", "server/test_bad_input.py")


@pytest.mark.slow
def test_what_clients_see_is_the_same_over_h2corn() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--transport", "h2corn"]
    command += ["-n", "2", "--dist", "loadfile", *(f"tests/{path}" for path in SEEN)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
