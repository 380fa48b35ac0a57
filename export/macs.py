"""stub"""

from pathlib import Path


def count(path: Path) -> int:
    return 1
