"""The digits are all there, rounded exactly, and cut the same way every time."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from artifact import pictures
from export.data import datasets
from export.data.datasets import Dataset, Split
from modelzoo.v1 import manifest_pb2


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits", seed=0, cache=Path())


def parts(dataset: Dataset) -> tuple[Split, Split, Split]:
    return dataset.train, dataset.validation, dataset.test


def test_the_parts_have_their_sizes(digits: Dataset) -> None:
    assert [len(part.labels) for part in parts(digits)] == [1293, 144, 360]
    assert [part.images.shape for part in parts(digits)] == [
        (1293, 8, 8, 1), (144, 8, 8, 1), (360, 8, 8, 1),
    ]  # fmt: skip
    assert digits.labels == tuple("0123456789")
    assert digits.name == "digits"


def test_the_parts_share_no_image_and_leave_none_out(digits: Dataset) -> None:
    original = load_digits()
    rounded = np.array([ROUNDED[level] for level in range(17)], np.uint8)
    wanted = Counter(
        (rounded[image.astype(int)].tobytes(), int(label))
        for image, label in zip(original.images, original.target, strict=True)
    )
    assert set(wanted.values()) == {1}  # no image is twice in scikit-learn's own
    found = Counter(
        (image.tobytes(), int(label))
        for part in parts(digits)
        for image, label in zip(part.images, part.labels, strict=True)
    )
    assert found == wanted


# 0..16 on the scale 0..255; the one tie, 127.5, goes to the even neighbour.
ROUNDED = {level: round(Fraction(level * 255, 16)) for level in range(17)}


def test_the_17_levels_are_rounded_exactly(digits: Dataset) -> None:
    assert list(ROUNDED.values()) == [
        0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255,
    ]  # fmt: skip
    for part in parts(digits):
        assert part.images.dtype == np.uint8
        assert set(np.unique(part.images)) == set(ROUNDED.values())


def test_every_label_is_in_every_part_in_proportion(digits: Dataset) -> None:
    labels = np.concatenate([part.labels for part in parts(digits)])
    total = np.bincount(labels, minlength=10)
    for part in parts(digits):
        proportional = total * len(part.labels) / len(labels)
        assert np.abs(np.bincount(part.labels, minlength=10) - proportional).max() <= 1


def test_the_same_seed_splits_the_same_way_and_another_does_not(digits: Dataset) -> None:
    again, other = (
        datasets.load("digits", seed=0, cache=Path()),
        datasets.load("digits", seed=1, cache=Path()),
    )
    for first, second, third in zip(parts(digits), parts(again), parts(other), strict=True):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert not np.array_equal(first.images, third.images)


def test_the_seed_is_told_with_what_was_held_out() -> None:
    assert datasets.load("digits", seed=7, cache=Path()).held_out.endswith("seed 7")


def test_fitted_images_are_what_the_server_makes_of_them(digits: Dataset) -> None:
    shape = manifest_pb2.Input(height=28, width=28, channels=1)
    preprocessing = manifest_pb2.Preprocessing(
        resize_shorter_px=28, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
    )
    fitted = digits.validation.fitted(shape, preprocessing)
    assert fitted.images.shape == (144, 28, 28, 1)
    assert fitted.labels is digits.validation.labels
    for image, original in zip(fitted.images, digits.validation.images, strict=True):
        np.testing.assert_array_equal(image, pictures.fit(original, shape, preprocessing))


def test_an_unknown_dataset_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(
        datasets.UnknownDatasetError, match=r"^no dataset is called 'letters'; there is: .*digits"
    ):
        datasets.load("letters", seed=0, cache=Path())
