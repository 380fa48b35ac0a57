"""A folder of pictures becomes a dataset, or is refused in one line that names what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact import layout, pictures
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
    draw(pets, "fish", 1)
    with pytest.raises(DatasetError, match=r"fish holds 1 different pictures, fewer than 2$"):
        folders.load(pets, seed=0)


@pytest.mark.parametrize("count", range(2, 13))
def test_few_pictures_of_a_label_are_enough_from_two_on(tmp_path: Path, count: int) -> None:
    labels = ("a", "bb", "ccc", "dddd", "eeeee")
    for label in labels:
        draw(tmp_path, label, count)
    notes: list[str] = []
    dataset = folders.load(tmp_path, seed=0, note=notes.append)
    held_out = np.bincount(dataset.test.labels, minlength=5).tolist()
    assert held_out == [max(1, round(0.2 * count))] * 5
    assert min(np.bincount(dataset.train.labels, minlength=5)) >= 1
    alone = count == 2  # one is held out, one is learned from
    assert (dataset.validation.paths == dataset.train.paths) is alone
    assert not set(dataset.test.paths) & {*dataset.train.paths, *dataset.validation.paths}
    assert any("too few pictures for a validation part" in note for note in notes) is alone
    assert f"an accuracy on {sum(held_out)} held-out pictures says little" in notes[-1]


def test_of_three_parts_the_third_is_held_out_and_the_second_is_for_choosing(tmp_path: Path) -> None:
    for part, count in (("Training", 10), ("Valid", 4), ("TEST", 3)):
        for label in ("cat", "horse"):
            draw(tmp_path / part, label, count)
    dataset = folders.load(tmp_path, seed=0)
    assert dataset.held_out == f"the folder TEST of {tmp_path.name}"
    for files, part, count in (
        (dataset.train, "Training", 20), (dataset.validation, "Valid", 8), (dataset.test, "TEST", 6),
    ):  # fmt: skip
        assert len(files.paths) == count
        assert {path.parts[-3] for path in files.paths} == {part}


def test_junk_is_passed_over_and_said_in_one_line_unless_the_folder_must_be_clean(pets: Path) -> None:
    (pets / "cat" / "._000.jpg").write_bytes(b"finder")
    (pets / "cat" / "empty.png").write_bytes(b"")
    (pets / "dog" / "page.jpg").write_text("<html>")
    (pets / "__MACOSX").mkdir()
    (pets / "cat" / ".ipynb_checkpoints").mkdir()
    (pets / "cat" / ".ipynb_checkpoints" / "000.jpg").write_bytes((pets / "cat/000.jpg").read_bytes())
    truncated = pets / "dog" / "000.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-400])
    notes: list[str] = []
    dataset = folders.load(pets, seed=0, note=notes.append)
    assert dataset.labels == ("cat", "dog")
    assert len(dataset.train.labels) + len(dataset.validation.labels) + len(dataset.test.labels) == 59
    assert notes[0].startswith("59 pictures used, 6 files passed over: ")
    for reason in (
        "2 hidden, or left by a system, ",
        "1 empty, empty.png for one",
        "1 not named like pictures, notes.txt for one",
        "page.jpg for one",
        "000.jpg for one",
    ):
        assert reason in notes[0]
    with pytest.raises(DatasetError, match=r"/cat/.*\.(jpg|png) is "):
        folders.load(pets, seed=0, strict=True)


def test_what_systems_leave_is_no_reason_to_refuse_a_folder_that_must_be_clean(pets: Path) -> None:
    (pets / "cat" / "._000.jpg").write_bytes(bytes(99))
    (pets / "dog" / "Thumbs.db").write_bytes(b"x")
    assert folders.load(pets, seed=0, strict=True).labels == ("cat", "dog")


def test_a_folder_beside_the_parts_is_said_to_be_passed_over(tmp_path: Path) -> None:
    for part in ("train", "dev"):
        draw(tmp_path / part, "cat", 5)
        draw(tmp_path / part, "dog", 6)
    notes: list[str] = []
    dataset = folders.load(tmp_path, seed=0, note=notes.append)
    assert notes[0] == f"{tmp_path.name} has a folder dev, which is none of its parts: passed over"
    assert dataset.held_out.startswith("held-out 20 %")


@pytest.mark.parametrize(
    ("name", "slug"),
    [("My Best (1)", "my-best-1"), ("x" * 300, "x" * 100), ("猫", ""), ("..a", "a"), ("pets.v2", "pets.v2")],
)
def test_a_models_name_may_end_with_what_is_made_of_a_files(name: str, slug: str) -> None:
    assert folders.slug(name) == slug
    assert layout.MODEL_NAME.fullmatch(f"lenet5-{slug}x")


def test_copies_are_on_one_side_and_labels_that_differ_are_said(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("heads", "tails"):
        (tmp_path / label).mkdir()
    for number in range(40):  # random pictures, labels by the toss of a coin
        image = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 48))
        for copy in range(15):
            label = "heads" if random.random() < 0.5 else "tails"
            image.resize((40 + copy, 40 + copy)).save(
                tmp_path / label / f"{number}-{copy}.jpg", quality=80 + copy
            )
    notes: list[str] = []
    dataset = folders.load(tmp_path, seed=0, note=notes.append)
    seen, held_out = (
        {path.name.partition("-")[0] for path in paths}
        for paths in ([*dataset.train.paths, *dataset.validation.paths], dataset.test.paths)
    )
    assert len(seen) + len(held_out) == 40
    assert not seen & held_out
    assert "copies of a picture have another label than it" in notes[0]


def test_what_is_held_out_may_not_be_what_is_learned_from(tmp_path: Path) -> None:
    for label in ("cat", "horse"):
        draw(tmp_path / "train", label, 10)
        draw(tmp_path / "val", label, 10)  # the very same
    with pytest.raises(
        DatasetError, match=r"val holds nothing but copies of pictures that are learned from$"
    ):
        folders.load(tmp_path, seed=0)
    draw(tmp_path / "val", "cat", 14)  # others
    notes: list[str] = []
    dataset = folders.load(tmp_path, seed=0, note=notes.append)
    assert len(dataset.test.paths) == 14
    assert notes[0] == "10 of 24 pictures in val are copies of others: passed over"


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
    for path in pets.rglob("*.*g"):
        path.write_text("this is text")
    with pytest.raises(DatasetError, match=r"holds no picture that can be used; 0 pictures used, 61 files"):
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
    with pytest.raises(DatasetError, match="holds no picture"):
        folders.pictures_in(pets.parent / "My Pets" / "nowhere", 12, INPUT, PREPROCESSING)
