"""A folder of pictures becomes a dataset, or is refused in one line that names what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from export.data import folders
from export.data.datasets import DatasetError
from modelzoo.v1 import manifest_pb2

INPUT = manifest_pb2.Input(height=16, width=16, channels=3)
PREPROCESSING = manifest_pb2.Preprocessing(
    resize_shorter_px=16, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
)


def draw(folder: Path, label: str, count: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> None:
    (folder / label).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(label) + count)
    for index in range(count):
        pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        name = f"{index:03}.{'png' if index % 2 else 'jpg'}"
        Image.fromarray(pixels).convert(mode).save(folder / label / name)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "My Pets"
    for label, count in (("cat", 20), ("dog", 40)):
        draw(folder, label, count)
    (folder / "dog" / "notes.txt").write_text("not a picture")
    return folder


def test_labels_are_the_folders_and_a_fifth_is_held_out_in_proportion(pets: Path) -> None:
    dataset = folders.load(pets, seed=0)
    assert (dataset.name, dataset.labels) == ("my-pets", ("cat", "dog"))
    assert np.bincount(dataset.test.labels).tolist() == [4, 8]
    assert len(dataset.train.labels) + len(dataset.validation.labels) == 48
    assert dataset.held_out == "held-out 20 % of My Pets, stratified, seed 0"
    assert (dataset.channels, dataset.side_px, dataset.mirrored) == (3, 20, True)
    paths = [*dataset.train.paths, *dataset.validation.paths, *dataset.test.paths]
    assert len(set(paths)) == len(paths) == 60


def test_the_same_seed_splits_the_same_way_and_another_does_not(pets: Path) -> None:
    first, again, other = (folders.load(pets, seed).test.paths for seed in (0, 0, 1))
    assert first == again != other


def test_pictures_are_decoded_as_the_server_decodes_them(pets: Path) -> None:
    test = folders.load(pets, seed=0).test
    split = test.fitted(INPUT, PREPROCESSING)
    assert split.images.shape == (12, 16, 16, 3)
    for image, path in zip(split.images, test.paths, strict=True):
        np.testing.assert_array_equal(image, pictures.decode(path.read_bytes(), INPUT, PREPROCESSING))
    assert split.labels.tolist() == [path.parent.name == "dog" for path in test.paths]


def test_a_val_folder_beside_train_is_what_is_held_out(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        draw(tmp_path / "train", label, 10)
        draw(tmp_path / "val", label, 3)
    dataset = folders.load(tmp_path, seed=0)
    assert all("/val/" in str(path) for path in dataset.test.paths)
    assert len(dataset.test.paths) == 6
    assert len(dataset.train.labels) + len(dataset.validation.labels) == 20


def test_grey_pictures_are_found_out(tmp_path: Path) -> None:
    for label in ("a", "b"):
        draw(tmp_path, label, 10, mode="L")
    assert folders.load(tmp_path, seed=0).channels == 1


def test_a_val_folder_with_another_label_is_refused(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        draw(tmp_path / "train", label, 10)
    draw(tmp_path / "val", "cat", 3)
    draw(tmp_path / "val", "horse", 3)
    with pytest.raises(DatasetError, match=r"has labels that .* lacks: horse"):
        folders.load(tmp_path, seed=0)


def test_a_single_label_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "cat", 10)
    with pytest.raises(DatasetError, match="at least two labels"):
        folders.load(tmp_path, seed=0)


def test_too_few_pictures_of_a_label_are_refused(pets: Path) -> None:
    draw(pets, "fish", 2)
    with pytest.raises(DatasetError, match=r"fish holds 2 JPEG or PNG pictures, fewer than 5"):
        folders.load(pets, seed=0)


def test_a_label_of_two_lines_is_refused(pets: Path) -> None:
    draw(pets, "two\nlines", 10)
    with pytest.raises(DatasetError, match="cannot be a label"):
        folders.load(pets, seed=0)


def test_a_damaged_picture_is_named(pets: Path) -> None:
    dataset = folders.load(pets, seed=0)
    victim = dataset.train.paths[3]
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(DatasetError, match=str(victim)):
        dataset.train.fitted(INPUT, PREPROCESSING)


def test_a_file_that_is_no_picture_is_named(pets: Path) -> None:
    for path in pets.rglob("*.jpg"):
        path.write_text("this is text")
    with pytest.raises(DatasetError, match=r"\.jpg: neither a JPEG nor a PNG file"):
        folders.load(pets, seed=0)


def test_more_than_memory_holds_is_refused(pets: Path) -> None:
    dataset = folders.load(pets, seed=0)
    huge = manifest_pb2.Input(height=4096, width=4096, channels=3)
    many = folders.Files(list(dataset.train.paths) * 10, np.tile(dataset.train.labels, 10))
    with pytest.raises(DatasetError, match="do not fit into memory"):
        many.fitted(huge, PREPROCESSING)


def test_pictures_for_calibration_are_spread_over_the_folder(pets: Path) -> None:
    assert folders.pictures_in(pets, 100, INPUT, PREPROCESSING).shape == (60, 16, 16, 3)
    assert folders.pictures_in(pets, 12, INPUT, PREPROCESSING).shape == (12, 16, 16, 3)
    with pytest.raises(DatasetError, match="holds no JPEG or PNG picture"):
        folders.pictures_in(pets.parent / "My Pets" / "nowhere", 12, INPUT, PREPROCESSING)
