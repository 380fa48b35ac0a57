"""The pictures that networks are trained and judged on.

A dataset is pictures with labels, split three ways: `train` learns from the first, picks its best
epoch on the second, and `pipeline` looks at the third once, at the very end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torchvision  # type: ignore[import-untyped]
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from artifact import pictures
from export.errors import ExportError
from modelzoo.v1 import manifest_pb2

HELD_OUT_RATIO = 0.2  # of all images
VALIDATION_RATIO = 0.1  # of what is left
_DIGITS_MAX = 16  # scikit-learn's digits count the inked pixels of 4 x 4 blocks: 0..16


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        labels: label indices, int64 ``[N]``.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def fitted(self, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing) -> "Split":
        """Fit every image to a network's input, by the preprocessing that the server uses."""
        images = [pictures.fit(image, shape, preprocessing) for image in self.images]
        return Split(np.stack(images), self.labels)  # [N, H, W, C]

    def chosen(self, indices: npt.NDArray[np.intp]) -> "Split":
        """Return some of the images."""
        return Split(self.images[indices], self.labels[indices])


class Part(Protocol):
    """Pictures with their labels, which need not be decoded yet."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Return the label indices, int64 ``[N]``."""

    def fitted(self, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing) -> Split:
        """Fit every picture to a network's input, by the preprocessing that the server uses.

        Raises:
            DatasetError: a picture cannot be read.
        """


@dataclass(frozen=True)
class Dataset:
    """A named dataset in three parts that share no image.

    Attributes:
        name: as a model's name ends.
        held_out: what `test` is, in words for the manifest.
        labels: the labels' texts, in the order of their indices.
        channels: 1 where the pictures are grey, 3 where they are coloured.
        side_px: their typical shorter side.
        mirrored: whether a picture seen in a mirror keeps its label.
    """

    name: str
    held_out: str
    labels: tuple[str, ...]
    channels: int
    side_px: int
    mirrored: bool
    train: Part
    validation: Part
    test: Part


class DatasetError(ExportError):
    """The pictures or labels are not what a dataset needs; the message says which."""


class UnknownDatasetError(LookupError):
    """There is no dataset of that name; the message lists those there are."""


def load(name: str, seed: int, cache: Path) -> Dataset:
    """Load a dataset; the same seed splits it the same way.

    Args:
        cache: folder of what is downloaded.

    Raises:
        UnknownDatasetError: there is none of that name.
        DatasetError: it could not be downloaded.
    """
    if name not in _LOADERS:
        raise UnknownDatasetError(f"no dataset is called {name!r}; there is: {', '.join(_LOADERS)}")
    return _LOADERS[name](seed, cache)


def cut(part: Split, ratio: float, seed: int) -> tuple[Split, Split]:
    """Cut a part off, every label in proportion; give what is left and what was cut."""
    left, off = train_test_split(
        np.arange(len(part.labels)), test_size=ratio, stratify=part.labels, random_state=seed
    )
    return part.chosen(left), part.chosen(off)


def _digits(seed: int, cache: Path) -> Dataset:
    """Load the 1,797 handwritten digits that scikit-learn carries: 8 x 8, ink is bright.

    Reference: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49 (its test part).
    """
    del cache
    digits = load_digits()
    images = np.rint(digits.images * (255 / _DIGITS_MAX)).astype(np.uint8)[..., np.newaxis]  # [N, 8, 8, 1]
    rest, test = cut(Split(images, digits.target.astype(np.int64)), HELD_OUT_RATIO, seed)
    train, validation = cut(rest, VALIDATION_RATIO, seed)
    return Dataset(
        name="digits",
        held_out=f"held-out 20 % of scikit-learn's digits, stratified, seed {seed}",
        labels=tuple(str(digit) for digit in digits.target_names),
        channels=1,
        side_px=8,
        mirrored=False,
        train=train,
        validation=validation,
        test=test,
    )


def _mnist(seed: int, cache: Path) -> Dataset:
    """Load MNIST: 70,000 handwritten digits, 28 x 28, ink is bright; its test part is held out.

    Reference: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    1998, https://doi.org/10.1109/5.726791.
    """
    try:
        parts = [torchvision.datasets.MNIST(cache, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"MNIST could not be downloaded into {cache}: {error}") from error
    rest, test = (
        Split(part.data.numpy()[..., np.newaxis], part.targets.numpy().astype(np.int64)) for part in parts
    )
    train, validation = cut(rest, VALIDATION_RATIO, seed)
    return Dataset(
        name="mnist",
        held_out="MNIST's test part",
        labels=tuple(str(digit) for digit in range(10)),
        channels=1,
        side_px=28,
        mirrored=False,
        train=train,
        validation=validation,
        test=test,
    )


_LOADERS: dict[str, Callable[[int, Path], Dataset]] = {"digits": _digits, "mnist": _mnist}
NAMES = tuple(_LOADERS)
