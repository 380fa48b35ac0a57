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
