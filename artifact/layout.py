"""Where things lie in a model repository: ``models/<name>/<version>/`` and the files inside."""

import itertools
import os
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
MAX_ENTRIES = 10_000  # of one folder; each costs a server some 128 series
_VERSION = re.compile(r"[1-9][0-9]{0,8}")  # fits an int32


@dataclass(frozen=True)
class Entry:
    """One version of one model in a repository; its content has not been looked at."""

    name: str
    version: int
    folder: Path


@dataclass(frozen=True)
class Ignored:
    """A folder that holds no model or version, because of its name or its content.

    Attributes:
        path: relative to the repository.
        reason: why, in one line.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What a repository holds.

    Attributes:
        models: versions of each model, the newest first, by the models' names in their order.
        ignored: folders that hold none; temporary ones, named with a dot in front, are not among them.
    """

    models: dict[str, tuple[Entry, ...]]
    ignored: tuple[Ignored, ...]


def scan(repository: Path) -> Scan:
    """List a repository's models and their versions.

    A repository that does not exist holds nothing, and a folder that vanishes meanwhile is not there. A model
    in a folder that cannot be read is there, with `UNKNOWN_VERSION`: reading it gives the reason.

    Raises:
        OSError: the repository itself cannot be read.
    """
    models: dict[str, tuple[Entry, ...]] = {}
    ignored: list[Ignored] = []
    try:
        names = _folders(repository, "", ignored)
    except (FileNotFoundError, NotADirectoryError):
        names = []
    for name in sorted(names):
        if not MODEL_NAME.fullmatch(name):
            rule = "lower-case letters, digits, '_', '.' and '-', 128 characters at most"
            ignored.append(Ignored(name, f"not a model's name: {rule}"))
            continue
        folder = repository / name
        try:
            versions_, strays = _versions(folder, name)
        except FileNotFoundError:
            continue
        except OSError:
            models[name] = (Entry(name, UNKNOWN_VERSION, folder),)
            continue
        ignored += strays
        if versions_:
            models[name] = tuple(Entry(name, number, folder / str(number)) for number in reversed(versions_))
        else:
            ignored.append(Ignored(name, "holds no version: a folder named 1, 2, …"))
    return Scan(models, tuple(ignored))


def versions(model_folder: Path) -> list[int]:
    """List the published versions in a model's folder, oldest first.

    Temporary folders (their names start with a dot) and anything else that is not a number are passed
    over.
    """
    if not model_folder.is_dir():
        return []
    found, _ = _versions(model_folder, model_folder.name)
    return found


def newest(repository: Path) -> Iterator[Entry]:
    """Yield the newest version of every model of a repository, in the order of their names; see `scan`.

    Raises:
        OSError: the repository itself cannot be read.
    """
    for entries in scan(repository).models.values():
        yield entries[0]


def _versions(folder: Path, name: str) -> tuple[list[int], list[Ignored]]:
    ignored: list[Ignored] = []
    found = []
    for child in _folders(folder, name, ignored):
        if _VERSION.fullmatch(child):
            found.append(int(child))
        else:
            reason = "not a version: a whole number from 1 to 999999999, without leading zeros"
            ignored.append(Ignored(f"{name}/{child}", reason))
    return sorted(found), ignored


def _folders(folder: Path, name: str, ignored: list[Ignored]) -> list[str]:
    """List the folders in a folder, but temporary ones; of very many, some.

    Raises:
        OSError: it cannot be read.
    """
    with os.scandir(folder) as children:
        seen = list(itertools.islice(children, MAX_ENTRIES + 1))
    if len(seen) > MAX_ENTRIES:
        ignored.append(
            Ignored(name or ".", f"more than {MAX_ENTRIES:,} entries; the others are not looked at")
        )
    return [
        child.name for child in seen[:MAX_ENTRIES] if not child.name.startswith(".") and _is_folder(child)
    ]


def _is_folder(child: "os.DirEntry[str]") -> bool:
    try:
        return child.is_dir()
    except OSError:  # a symbolic link to what may not be looked at
        return False
