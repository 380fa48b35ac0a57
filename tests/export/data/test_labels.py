"""A label file holds labels, or is refused."""

from pathlib import Path

import pytest

from export.data import labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 labels"),
        (b"one\n", "holds 1 labels"),
        (b"one\n \ntwo\n", "line 2 of labels.txt is empty"),
        (b"one\ntwo\n\n", "line 3 of labels.txt is empty"),
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
        (b"label\n" * 100_001, "more than 100,000 labels"),
    ],
)
def test_a_file_without_labels_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(labels.LabelsError, match=message):
        labels.read(tmp_path / "labels.txt")
