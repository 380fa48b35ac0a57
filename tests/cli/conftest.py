"""Commands as a user gives them: processes of their own, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.process import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `modelzoo` in an empty folder, its output piped; environment variables by keyword."""

    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODELZOO_")}
        inherited.pop("COLUMNS", None)
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=inherited | environment,
            check=False,
        )

    return run
