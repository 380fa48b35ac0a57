"""Where things lie in a model repository: ``models/<name>/<version>/`` and the files inside."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
LABELS = "labels.txt"
GOLDEN = "golden.npz"
CARD = "card"
EXAMPLE = "example.png"  # inside the card: a held-out picture, for a first try
INPUT, OUTPUT = "images", "probabilities"  # of every graph
MODEL_FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}")  # a folder's name that no shell or URL minds
UNKNOWN_VERSION = 0
_VERSION = re.compile(r"[1-9][0-9]{0,8}")  # fits an int32


@dataclass(frozen=True)
class Entry:
    """One version of one model in a repository; its content has not been looked at."""

    name: str
    version: int
    folder: Path


def versions(model_folder: Path) -> list[int]:
    """List the published versions in a model's folder, oldest first.

    Temporary folders, whose names start with a dot, and anything else that is not a number are passed
    over.
    """
    if not model_folder.is_dir():
        return []
    return sorted(
        int(child.name)
        for child in model_folder.iterdir()
        if _VERSION.fullmatch(child.name) and child.is_dir()
    )


def newest(repository: Path) -> Iterator[Entry]:
    """Yield the newest version of every model of a repository, in the order of their names.

    A repository that does not exist holds nothing. A model whose folder cannot be read is there, with
    `UNKNOWN_VERSION`: reading it will say why.

    Raises:
        OSError: the repository itself cannot be read.
    """
    if not repository.is_dir():
        return
    for folder in sorted(repository.iterdir()):
        if not MODEL_NAME.fullmatch(folder.name):
            continue
        try:
            found = versions(folder)
        except OSError:
            yield Entry(name=folder.name, version=UNKNOWN_VERSION, folder=folder)
            continue
        if found:
            yield Entry(name=folder.name, version=found[-1], folder=folder / str(found[-1]))
