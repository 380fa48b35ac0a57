"""A folder of pictures as a dataset: ``DIR/train/<label>/*.jpg`` and ``DIR/val/...``, or one split here."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artifact.errors import PictureError
from artifact.execution import core_count
from export.data import copies, reading, splits
from export.data.datasets import HELD_OUT_RATIO, VALIDATION_RATIO, Dataset, DatasetError, Split
from export.data.reading import Found, Picture
from modelzoo.v1 import manifest_pb2

_FEWEST = 2  # different pictures of a label: one to learn from, one that is held out
_MAX_BYTES = 8 << 30  # of decoded pixels, which all lie in memory
_MAX_NAME_CHARACTERS = 100  # a model's name has up to 128, the architecture's first
_FEW_HELD_OUT = 100  # pictures, on which a figure says little


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

        def fit(row: int) -> None:
            path = self.paths[row]
            try:
                images[row] = reading.fit(path.read_bytes(), shape, preprocessing)
            except (PictureError, OSError) as error:
                raise DatasetError(f"{path}: {error}") from error

        with ThreadPoolExecutor(core_count()) as pool:
            for _ in pool.map(fit, range(len(self.paths))):  # raises the first error in order
                pass
        return Split(images, self.labels)


def load(
    folder: Path, seed: int, *, strict: bool = False, note: Callable[[str], None] = lambda _: None
) -> Dataset:
    """Load a folder of pictures.

    Labels are the names of the folders that pictures lie in. `splits.find` says what is held out; where there
    is nothing but ``train``, or no parts at all, it is a fifth of the pictures, every label in proportion.
    Copies of a picture are never on both sides.

    Args:
        strict: refuse the folder where a picture file in it cannot be used.
        note: told what should be known of the accuracy: files passed over, copies, small numbers.

    Raises:
        DatasetError: there are too few labels or pictures, or a label cannot be one.
        OSError: the folder cannot be read.
    """
    parts = splits.find(folder)
    for name in splits.beside(folder, parts):
        note(f"{folder.name} has a folder {name}, which is none of its parts: passed over")
    labels = _labels(parts)
    loader = _Loader(labels, strict=strict, note=note)
    rest = loader.pictures(parts.train)
    if parts.test is not None:
        test, held_out = loader.pictures(parts.test), f"the folder {parts.test.name} of {folder.name}"
    else:
        test, held_out = [], f"held-out 20 % of {folder.name}, stratified, seed {seed}"
    validation = [] if parts.validation is None else loader.pictures(parts.validation)
    loader.report()
    numbers = loader.number_copies(rest, validation, test)

    for part, root in ((validation, parts.validation), (test, parts.test)):
        if root is not None:
            known = {numbers[one.path] for one in (rest if part is validation else [*rest, *validation])}
            _drop_copies(part, known, numbers, root, note)
    loader.require_enough(rest, parts.train, numbers)
    random = np.random.default_rng(seed)
    if parts.test is None:
        rest, test = _cut(rest, HELD_OUT_RATIO, random, numbers)
    if not validation:
        rest, validation = _cut(rest, VALIDATION_RATIO, random, numbers)
    if not validation:
        note(
            "too few pictures for a validation part: the best epoch is chosen on those that are learned from"
        )
        validation = rest
    if len(test) < _FEW_HELD_OUT:
        note(f"an accuracy on {len(test)} held-out pictures says little; its interval is in the card")
    return Dataset(
        name=name_of(folder),
        held_out=held_out,
        labels=labels,
        channels=1 if all(one.is_grey for one in rest) else 3,
        side_px=int(np.median([one.shorter_px for one in rest])),
        mirrored=True,
        train=_files(rest),
        validation=_files(validation),
        test=_files(test),
    )


def _labels(parts: splits.Folders) -> tuple[str, ...]:
    """Return the labels of a dataset.

    Raises:
        DatasetError: a part has others than the training part, or they are none.
    """
    labels = splits.labels(parts.train)
    for other in (parts.validation, parts.test):
        if other is not None and (unknown := sorted(set(splits.labels(other)) - set(labels))):
            raise DatasetError(f"{other} has labels that the training part lacks: {', '.join(unknown)}")
    return labels


def name_of(folder: Path) -> str:
    """Make of a folder's name what a model's name may end with."""
    return slug(folder.resolve().name) or "pictures"


def slug(name: str) -> str:
    """Make of a name what a model's name may end with, 100 characters at most; empty where none is left."""
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower())[:_MAX_NAME_CHARACTERS].strip("-.")


def pictures_in(
    folder: Path, limit: int, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> npt.NDArray[np.uint8]:
    """Decode some of the pictures under a folder, uint8 ``[N, H, W, C]``, spread evenly over it.

    Raises:
        DatasetError: there is none, or one cannot be read.
    """
    paths = reading.named_like_pictures(folder)
    if not paths:
        raise DatasetError(f"{folder} holds no picture")
    chosen = reading.spread(paths, limit)
    return Files(chosen, np.zeros(len(chosen), np.int64)).fitted(shape, preprocessing).images


class _Loader:
    """Reads the parts of one dataset, and keeps what is to be said of them."""

    def __init__(self, labels: Sequence[str], *, strict: bool, note: Callable[[str], None]) -> None:
        self._labels = labels
        self._strict = strict
        self._note = note
        self._found: list[Found] = []

    def pictures(self, root: Path) -> list[Picture]:
        """Read a part.

        Raises:
            DatasetError: it holds no picture.
        """
        folders = [(root / label, index) for index, label in enumerate(self._labels)]
        found = reading.read(folder for folder in folders if folder[0].is_dir())
        if self._strict and found.unusable:
            path, reason = next(iter(found.unusable.items()))
            raise DatasetError(f"{path} is {reason}")
        if not found.used:
            raise DatasetError(f"{root} holds no picture that can be used; {found.report()}")
        self._found.append(found)
        return list(found.used)

    def report(self) -> None:
        """Say what was passed over, where anything was."""
        passed_over = {path: why for found in self._found for path, why in found.passed_over.items()}
        if passed_over:
            used = [picture for found in self._found for picture in found.used]
            self._note(Found(used, passed_over).report())

    def number_copies(self, *parts: Sequence[Picture]) -> dict[Path, int]:
        """Return a number for every picture, which copies have in common; say where their labels differ.

        Args:
            parts: the training part first. Where a label of it has only pictures that look alike, copies are
                files with the same bytes alone.
        """
        pictures = [picture for part in parts for picture in part]
        numbers = copies.near(pictures).tolist()
        if any(count < _FEWEST for count in self._different(parts[0], numbers)):
            # Pictures of one kind of thing, in one place and light, may look alike in small.
            numbers = copies.exact(pictures).tolist()
        by_number: dict[int, Picture] = {}
        conflicts: list[tuple[Picture, Picture]] = []
        for number, picture in zip(numbers, pictures, strict=True):
            first = by_number.setdefault(number, picture)
            if first.label != picture.label:
                conflicts.append((first, picture))
        if conflicts:
            first, other = conflicts[0]
            self._note(
                f"{len(conflicts):,} copies of a picture have another label than it, "
                f"{_place(other)} and {_place(first)} for one"
            )
        return {picture.path: number for number, picture in zip(numbers, pictures, strict=True)}

    def require_enough(self, pictures: Sequence[Picture], root: Path, numbers: dict[Path, int]) -> None:
        """Insist on different pictures of every label.

        Raises:
            DatasetError: a label has too few.
        """
        counts = self._different(pictures, [numbers[one.path] for one in pictures])
        for label, count in zip(self._labels, counts, strict=True):
            if count < _FEWEST:
                raise DatasetError(f"{root / label} holds {count} different pictures, fewer than {_FEWEST}")

    def _different(self, pictures: Sequence[Picture], numbers: Sequence[int]) -> list[int]:
        """Count the different pictures of each label."""
        different: list[set[int]] = [set() for _ in self._labels]
        for one, number in zip(pictures, numbers, strict=False):  # the numbers of other parts follow
            different[one.label].add(number)
        return [len(its) for its in different]


def _drop_copies(
    part: list[Picture], known: set[int], numbers: dict[Path, int], folder: Path, note: Callable[[str], None]
) -> None:
    """Take the pictures out of a part that are copies of those in an earlier one.

    Raises:
        DatasetError: all of them are copies.
    """
    kept = [one for one in part if numbers[one.path] not in known]
    if not kept:
        raise DatasetError(f"{folder} holds nothing but copies of pictures that are learned from")
    if dropped := len(part) - len(kept):
        note(f"{dropped:,} of {len(part):,} pictures in {folder.name} are copies of others: passed over")
    part[:] = kept


def _cut(
    pictures: Sequence[Picture], ratio: float, random: np.random.Generator, numbers: dict[Path, int]
) -> tuple[list[Picture], list[Picture]]:
    """Cut a part off, copies together and every label in proportion; give what is left and what was cut.

    Of a label with two different pictures or more, at least one is cut off, and one is left.
    """
    by_number: dict[int, list[Picture]] = {}
    for picture in pictures:
        by_number.setdefault(numbers[picture.path], []).append(picture)
    by_label: dict[int, list[list[Picture]]] = {}
    for group in by_number.values():
        by_label.setdefault(group[0].label, []).append(group)
    off: set[Path] = set()
    for label in sorted(by_label):
        its = by_label[label]
        wanted = max(1, round(ratio * sum(map(len, its))))
        taken = 0
        for index in random.permutation(len(its))[: len(its) - 1]:
            if taken and taken + len(its[index]) > wanted:
                continue
            off.update(one.path for one in its[index])
            taken += len(its[index])
    return (
        [one for one in pictures if one.path not in off],
        [one for one in pictures if one.path in off],
    )


def _files(pictures: Sequence[Picture]) -> Files:
    return Files([one.path for one in pictures], np.array([one.label for one in pictures], np.int64))


def _place(picture: Picture) -> str:
    return "/".join(picture.path.parts[-2:])
