"""MNIST, where a folder with its four files is named by MODELZOO_MNIST; nothing is downloaded."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from export.data import datasets
from export.data.datasets import DatasetError

FOLDER = os.environ.get("MODELZOO_MNIST")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files where torchvision looks for them."""
    if FOLDER is None:
        pytest.skip("MODELZOO_MNIST names no folder with MNIST's files")
    cache = tmp_path_factory.mktemp("cache")
    raw = cache / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in Path(FOLDER).glob("*-ubyte.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return cache


def test_mnist_has_its_parts(cache: Path) -> None:
    mnist = datasets.load("mnist", seed=0, cache=cache)
    assert [part.images.shape for part in (mnist.train, mnist.validation, mnist.test)] == [
        (54_000, 28, 28, 1), (6_000, 28, 28, 1), (10_000, 28, 28, 1),
    ]  # fmt: skip
    assert np.bincount(mnist.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert (mnist.channels, mnist.side_px, mnist.mirrored) == (1, 28, False)
    assert mnist.held_out == "MNIST's test part"


def test_what_cannot_be_downloaded_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DatasetError, match="MNIST could not be downloaded into"):
        datasets.load("mnist", seed=0, cache=tmp_path / "cache")
