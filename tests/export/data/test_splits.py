"""The parts of a dataset are found by what their folders are called, and nothing else is taken for one."""

import os
from pathlib import Path

import pytest

from export.data import splits
from export.data.datasets import DatasetError


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("names", "train", "validation", "test"),
    [
        (("train",), "train", None, None),
        (("train", "val"), "train", None, "val"),
        (("Train", "Test"), "Train", None, "Test"),
        (("training", "testing"), "training", None, "testing"),
        (("TRAIN", "Valid", "test"), "TRAIN", "Valid", "test"),
        (("train", "validation", "testing", "notes"), "train", "validation", "testing"),
    ],
)
def test_parts_are_found_in_any_case(
    tmp_path: Path, names: tuple[str, ...], train: str, validation: str | None, test: str | None
) -> None:
    found = splits.find(made(tmp_path, *names))
    parts = [None if part is None else part.name for part in (found.train, found.validation, found.test)]
    assert parts == [train, validation, test]


def test_a_folder_without_parts_is_its_own_training_part(tmp_path: Path) -> None:
    assert splits.find(made(tmp_path, "cat", "dog", "trains")) == splits.Folders(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "Training"), r"has Training and train; one of them is too many$|has train and Training"),
        (("val", "test"), r"has a folder (val|test), and none that is called train$"),
        (("Test", "cat", "dog"), r"has a folder Test, and none that is called train$"),
    ],
)
def test_parts_that_are_no_split_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        splits.find(made(tmp_path, *names))


@pytest.mark.parametrize("name", ["train2017", "test_set", "Training data", "hold-out", "eval", "val-images"])
def test_a_label_that_looks_like_a_part_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"has a folder {name}, which looks like a part of the dataset"):
        splits.labels(made(tmp_path, "cat", "dog", name))


def test_a_label_called_train_is_taken_for_the_training_part_and_that_is_said(tmp_path: Path) -> None:
    found = splits.find(made(tmp_path, "car", "plane", "Train"))
    with pytest.raises(
        DatasetError, match=r"Train, as it is called like a part of a dataset, needs a folder"
    ):
        splits.labels(found.train)


@pytest.mark.parametrize("name", ["trainer", "valley", "tester", "train station", "devil"])
def test_a_label_that_only_begins_like_a_part_is_one(tmp_path: Path, name: str) -> None:
    assert name in splits.labels(made(tmp_path, "cat", name))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "cat")
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(DatasetError, match="which cannot be a label"):
        splits.labels(tmp_path)


def test_a_link_back_to_the_folder_is_no_label(tmp_path: Path) -> None:
    pets = made(tmp_path / "pets", "cat", "dog")
    (pets / "again").symlink_to(pets)
    (pets / "above").symlink_to(tmp_path)
    made(tmp_path, "bird")
    (pets / "elsewhere").symlink_to(tmp_path / "bird")
    assert splits.labels(pets) == ("cat", "dog", "elsewhere")


def test_two_forms_of_one_word_are_refused_as_labels(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"two folders 'caf.*', the same letters in two forms of Unicode$"):
        splits.labels(made(tmp_path, "caf\u00e9", "cafe\u0301"))
    assert splits.labels(made(tmp_path / "case", "Cat", "cat")) == ("Cat", "cat")


def test_folders_beside_the_parts_are_known(tmp_path: Path) -> None:
    folder = made(tmp_path, "train", "val", "dev", "notes", "__MACOSX")
    assert splits.beside(folder, splits.find(folder)) == ("dev", "notes")
    pets = made(tmp_path / "pets", "cat", "dog")
    assert splits.beside(pets, splits.find(pets)) == ()


def test_what_archivers_and_editors_leave_is_no_label(tmp_path: Path) -> None:
    made(tmp_path, "cat", "dog", "__MACOSX", ".git", ".ipynb_checkpoints")
    made(tmp_path, "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
    assert splits.labels(tmp_path) == ("cat", "dog")
