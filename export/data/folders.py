"""A folder of pictures as a dataset: ``DIR/train/<label>/*.jpg`` and ``DIR/val/...``, or one split here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from artifact import pictures
from artifact.errors import PictureError
from export.data.datasets import HELD_OUT_RATIO, VALIDATION_RATIO, Dataset, DatasetError, Split, cut
from modelzoo.v1 import manifest_pb2

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_LOOKED_AT = 100  # pictures with headers that stand for the others
_FEWEST = 5  # pictures of a label: three parts, and validation gets a tenth of what is not held out
_MAX_BYTES = 8 << 30  # of decoded pixels, which all lie in memory


@dataclass(frozen=True)
class Files:
    """Picture files with their labels.

    Attributes:
        labels: label indices, int64 ``[N]``.
    """

    paths: Sequence[Path]
    labels: npt.NDArray[np.int64]

    def fitted(self, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing) -> Split:
        """Decode every picture and fit it to a network's input.

        Raises:
            DatasetError: a file is no picture, or all of them do not fit into memory.
        """
        size = (len(self.paths), shape.height, shape.width, shape.channels)
        if np.prod(size, dtype=np.int64) > _MAX_BYTES:
            raise DatasetError(
                f"{len(self.paths):,} pictures of {shape.height} x {shape.width} do not fit into memory"
            )
        images = np.empty(size, np.uint8)  # [N, H, W, C]
        for row, path in enumerate(self.paths):
            try:
                images[row] = pictures.decode(path.read_bytes(), shape, preprocessing)
            except (PictureError, OSError) as error:
                raise DatasetError(f"{path}: {error}") from error
        return Split(images, self.labels)

    def chosen(self, indices: npt.NDArray[np.intp]) -> "Files":
        """Return some of the files."""
        return Files([self.paths[index] for index in indices], self.labels[indices])


def load(folder: Path, seed: int) -> Dataset:
    """Load a folder of pictures.

    Labels are the names of the folders that pictures lie in. Where there is ``val`` beside ``train`` it is
    held out, else a fifth of the pictures is, every label in proportion.

    Raises:
        DatasetError: there are too few labels or pictures, or a label cannot be one.
        OSError: the folder cannot be read.
    """
    train_folder, val_folder = folder / "train", folder / "val"
    root = train_folder if train_folder.is_dir() else folder
    labels = _labels(root)
    rest = _files(root, labels)
    if root is train_folder and val_folder.is_dir():
        if strangers := sorted(set(_labels(val_folder)) - set(labels)):
            raise DatasetError(f"{val_folder} has labels that {root} lacks: {', '.join(strangers)}")
        test, held_out = _files(val_folder, labels), f"the folder {val_folder.name} of {folder.name}"
        if not len(test.paths):
            raise DatasetError(f"{val_folder} holds no picture")
    else:
        _require_enough(rest, labels, root)
        rest, test = cut(rest, HELD_OUT_RATIO, seed)
        held_out = f"held-out 20 % of {folder.name}, stratified, seed {seed}"
    _require_enough(rest, labels, root)
    channels, side_px = _looks(rest.paths)
    training, validation = cut(rest, VALIDATION_RATIO, seed)
    return Dataset(
        name=name(folder),
        held_out=held_out,
        labels=labels,
        channels=channels,
        side_px=side_px,
        mirrored=True,
        train=training,
        validation=validation,
        test=test,
    )


def name(folder: Path) -> str:
    """Make of a folder's name what a model's name may end with."""
    return re.sub(r"[^a-z0-9_.]+", "-", folder.resolve().name.lower()).strip("-.") or "pictures"


def pictures_in(
    folder: Path, limit: int, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> npt.NDArray[np.uint8]:
    """Decode some of the pictures under a folder, uint8 ``[N, H, W, C]``, spread evenly over it.

    Raises:
        DatasetError: there is none, or one cannot be read.
    """
    paths = _paths(folder)
    if not paths:
        raise DatasetError(f"{folder} holds no JPEG or PNG picture")
    chosen = paths[:: -(-len(paths) // limit)]
    return Files(chosen, np.zeros(len(chosen), np.int64)).fitted(shape, preprocessing).images


def _labels(root: Path) -> tuple[str, ...]:
    labels = tuple(sorted(child.name for child in root.iterdir() if child.is_dir() and child.name[0] != "."))
    if len(labels) < 2:
        raise DatasetError(f"{root} needs a folder of pictures for each of at least two labels")
    for label in labels:
        if len(label.splitlines()) != 1 or label != label.strip():
            raise DatasetError(f"{root} has a folder {label!r}, which cannot be a label")
    return labels


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())


def _files(root: Path, labels: Sequence[str]) -> Files:
    found = [(path, index) for index, label in enumerate(labels) for path in _paths(root / label)]
    return Files([path for path, _ in found], np.array([index for _, index in found], np.int64))


def _require_enough(files: Files, labels: Sequence[str], root: Path) -> None:
    counts = np.bincount(files.labels, minlength=len(labels))
    for label, count in zip(labels, counts, strict=True):
        if count < _FEWEST:
            raise DatasetError(f"{root / label} holds {count} JPEG or PNG pictures, fewer than {_FEWEST}")


def _looks(paths: Sequence[Path]) -> tuple[int, int]:
    """Return the channels and the typical shorter side of pictures, out of some of their headers."""
    chosen = paths[:: max(1, len(paths) // _LOOKED_AT)]
    sides, modes = [], set()
    for path in chosen:
        try:
            pictures.check(path.read_bytes())  # the reason in the server's words, where there is one
            with Image.open(path) as image:
                sides.append(min(image.size))
                modes.add(image.mode)
        except PictureError as error:
            raise DatasetError(f"{path}: {error}") from error
        except (OSError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{path}: neither a JPEG nor a PNG file that can be read") from error
    grey = all(mode in {"1", "L", "LA"} or mode.startswith("I") for mode in modes)
    return (1 if grey else 3), int(np.median(sides))
