"""Which folders are the parts of a dataset: ``DIR/<label>``, or ``DIR/train/<label>`` with others beside."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from export.data.datasets import DatasetError
from export.data.reading import is_junk

_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# What a folder of a split may be called elsewhere; as a label it would be learned as one.
_LIKE_A_SPLIT = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev|eval|evaluation|hold[-_ ]?out)"
    r"([-_ ]?(set|split|data|images|pictures|\d+))*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Folders:
    """The folders of a dataset's parts; each has a folder for every label.

    Attributes:
        train: the only part there must be; the others are cut off it where they are not there.
        validation: on which the best epoch is chosen.
        test: held out: looked at once, at the very end.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None


def find(folder: Path) -> Folders:
    """Find the parts of a dataset by the names of its folders, in any case.

    Of two parts, the second is held out, whether it is called ``val`` or ``test``; of three, ``test`` is, and
    the best epoch is chosen on ``val``.

    Raises:
        DatasetError: two folders are the same part, or there is no ``train`` beside the others.
        OSError: the folder cannot be read.
    """
    found: dict[str, Path] = {}
    for child in subfolders(folder):
        for part, names in _NAMES.items():
            if child.name.lower() not in names:
                continue
            if part in found:
                raise DatasetError(
                    f"{folder} has {found[part].name} and {child.name}; one of them is too many"
                )
            found[part] = child
    if not found:
        return Folders(folder)
    if "train" not in found:
        [first, *_] = found.values()
        raise DatasetError(f"{folder} has a folder {first.name}, and none that is called train")
    if "test" not in found:
        return Folders(found["train"], None, found.get("validation"))
    return Folders(found["train"], found.get("validation"), found["test"])


def beside(folder: Path, parts: Folders) -> tuple[str, ...]:
    """Return the names of other folders that lie beside the parts of a dataset.

    Raises:
        OSError: the folder cannot be read.
    """
    known = (parts.train, parts.validation, parts.test)
    if parts.train == folder:
        return ()
    return tuple(child.name for child in subfolders(folder) if child not in known)


def labels(root: Path) -> tuple[str, ...]:
    """Return the labels of a part: the names of its folders, in order.

    Raises:
        DatasetError: there are fewer than two, or one cannot be a label.
        OSError: the folder cannot be read.
    """
    names = tuple(child.name for child in subfolders(root))
    if len(names) < 2:
        is_part = any(root.name.lower() in given for given in _NAMES.values())
        why = ", as it is called like a part of a dataset," if is_part else ""
        raise DatasetError(f"{root}{why} needs a folder of pictures for each of at least two labels")
    for name in names:
        if len(name.splitlines()) != 1 or name != name.strip() or not _is_text(name):
            raise DatasetError(f"{root} has a folder {name!r}, which cannot be a label")
        if _LIKE_A_SPLIT.fullmatch(name):
            raise DatasetError(
                f"{root} has a folder {name}, which looks like a part of the dataset and not like a label: "
                f"the parts are called train, val and test, and lie side by side"
            )
    by_form: dict[str, str] = {}
    for name in names:
        other = by_form.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DatasetError(f"{root} has two folders {name!r}, the same letters in two forms of Unicode")
    return names


def _is_text(name: str) -> bool:
    """Return whether a name can be written in UTF-8; of other bytes, Python makes surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder by name, but for hidden ones, those that archivers leave, and loops."""
    here = folder.resolve()
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not is_junk(Path(child.name)) and not here.is_relative_to(child.resolve())
    )
