"""Prints what the project and some of its extras need, out of the pyproject.toml beside or above it.

The image installs this first: the code changes far more often than what it stands on.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """List the requirements as they are written down.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    return [
        *project["dependencies"],
        *(need for extra in extras for need in project["optional-dependencies"][extra]),
    ]


if __name__ == "__main__":
    here = Path(__file__).parent
    nearest = next(folder for folder in (here, here.parent) if (folder / "pyproject.toml").exists())
    print("\n".join(requirements(nearest / "pyproject.toml", sys.argv[1].split(","))))
