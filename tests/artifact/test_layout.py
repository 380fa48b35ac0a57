"""A repository is its numbered folders, and nothing else that lies about."""

from pathlib import Path

import pytest

from artifact import layout
from artifact.layout import Entry


def make(repository: Path, *folders: str) -> None:
    for folder in folders:
        (repository / folder).mkdir(parents=True)


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    make(tmp_path, "10", "9", "2", "100", "1")
    assert layout.versions(tmp_path) == [1, 2, 9, 10, 100]


@pytest.mark.parametrize(
    "stranger",
    [".staging-1", "0", "01", "-1", "1.5", "v1", "1 ", "\u0661", "\u00b2", "1000000000", "tmp", "latest"],
)
def test_whatever_is_no_version_is_passed_over(tmp_path: Path, stranger: str) -> None:
    make(tmp_path, stranger, "3")
    assert layout.versions(tmp_path) == [3]


def test_a_file_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "7").write_text("")
    assert layout.versions(tmp_path) == []


def test_a_folder_that_does_not_exist_has_no_versions(tmp_path: Path) -> None:
    assert layout.versions(tmp_path / "nowhere") == []
    assert list(layout.newest(tmp_path / "nowhere")) == []


def test_the_newest_version_of_every_model_is_found_in_the_order_of_names(tmp_path: Path) -> None:
    make(tmp_path, "zfnet-digits/2", "lenet5-digits/9", "lenet5-digits/10", "lenet5-digits/.staging-x")
    assert list(layout.newest(tmp_path)) == [
        Entry("lenet5-digits", 10, tmp_path / "lenet5-digits" / "10"),
        Entry("zfnet-digits", 2, tmp_path / "zfnet-digits" / "2"),
    ]


def test_models_without_a_version_and_strange_names_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "empty", "staged/.staging-x", ".git/1", "Upper/1", "a b/1", "-dash/1", "ä/1", "ok/1")
    (tmp_path / "README.md").write_text("")
    assert [entry.name for entry in layout.newest(tmp_path)] == ["ok"]


@pytest.mark.parametrize("name", ["a", "lenet5-digits", "resnet50.v1_5", "0", "a" * 128])
def test_plain_names_are_model_names(name: str) -> None:
    assert layout.MODEL_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "A", "a\n", "a b", "_a", "é", "a" * 129, "a\\b", "a:b"]
)
def test_names_that_a_shell_or_a_path_minds_are_none(name: str) -> None:
    assert not layout.MODEL_NAME.fullmatch(name)


def test_folders_that_are_passed_over_are_named_with_the_reason_but_temporary_ones(tmp_path: Path) -> None:
    make(tmp_path, "ok/1", "ok/02", "ok/1.0", "ok/1234567890", "ok/.staging-x", ".git/1", "LeNet/1", "empty")
    (tmp_path / "ok/notes.txt").write_text("")
    (tmp_path / "README.md").write_text("")
    found = layout.scan(tmp_path)
    assert list(found.models) == ["ok"]
    reasons = {ignored.path: ignored.reason for ignored in found.ignored}
    assert set(reasons) == {"ok/02", "ok/1.0", "ok/1234567890", "LeNet", "empty"}
    assert reasons["LeNet"].startswith("not a model's name: lower-case letters")
    assert reasons["ok/02"] == "not a version: a whole number from 1 to 999999999, without leading zeros"
    assert reasons["empty"] == "holds no version: a folder named 1, 2, …"


def test_a_scan_lists_all_versions_the_newest_first(tmp_path: Path) -> None:
    make(tmp_path, "b/2", "b/10", "a/1")
    models = layout.scan(tmp_path).models
    assert [(name, [entry.version for entry in entries]) for name, entries in models.items()] == [
        ("a", [1]),
        ("b", [10, 2]),
    ]


def test_a_folder_with_very_many_entries_is_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_ENTRIES", 3)
    make(tmp_path, "a/1", "b/1", "c/1", "d/1", "e/1")
    found = layout.scan(tmp_path)
    assert len(found.models) == 3
    assert [(one.path, one.reason) for one in found.ignored] == [
        (".", "more than 3 entries; the others are not looked at")
    ]


def test_a_model_that_vanishes_while_the_repository_is_listed_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/1", "b/1")
    scandir = layout.os.scandir

    def vanishing(folder: Path):
        if folder.name == "a":
            raise FileNotFoundError(2, "No such file or directory")
        return scandir(folder)

    monkeypatch.setattr(layout.os, "scandir", vanishing)
    assert list(layout.scan(tmp_path).models) == ["b"]
