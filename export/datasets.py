"""The pictures that networks are trained and judged on.

A dataset is uint8 images with labels, split three ways: `train` learns from the first, picks its best
epoch on the second, and `pipeline` looks at the third once, at the very end.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from artifact import pictures
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


@dataclass(frozen=True)
class Dataset:
    """A named dataset in three parts that share no image.

    Attributes:
        name: as `--weights` takes it.
        held_out: what `test` is, in words for the manifest.
        labels: the labels' texts, in the order of their indices.
    """

    name: str
    held_out: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


class UnknownDatasetError(LookupError):
    """There is no dataset of that name; the message lists those there are."""


def load(name: str, seed: int) -> Dataset:
    """Load a dataset; the same seed splits it the same way.

    Raises:
        UnknownDatasetError: there is none of that name.
    """
    if name not in _LOADERS:
        raise UnknownDatasetError(f"no dataset is called {name!r}; there is: {', '.join(_LOADERS)}")
    return _LOADERS[name](seed)


def _digits(seed: int) -> Dataset:
    """Load the 1,797 handwritten digits that scikit-learn carries: 8 x 8, ink is bright.

    Reference: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49 (its test part).
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / _DIGITS_MAX)).astype(np.uint8)[..., np.newaxis]  # [N, 8, 8, 1]
    rest, test = _cut(Split(images, digits.target.astype(np.int64)), HELD_OUT_RATIO, seed)
    train, validation = _cut(rest, VALIDATION_RATIO, seed)
    return Dataset(
        name="digits",
        held_out=f"held-out 20 % of scikit-learn's digits, stratified, seed {seed}",
        labels=tuple(str(digit) for digit in digits.target_names),
        train=train,
        validation=validation,
        test=test,
    )


def _cut(split: Split, ratio: float, seed: int) -> tuple[Split, Split]:
    """Cut a part off, every label in proportion; return what is left and what was cut."""
    left, cut = train_test_split(
        np.arange(len(split.labels)), test_size=ratio, stratify=split.labels, random_state=seed
    )
    return Split(split.images[left], split.labels[left]), Split(split.images[cut], split.labels[cut])


_LOADERS = {"digits": _digits}
