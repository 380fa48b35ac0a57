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


@pytest.mark.parametrize(
    "content",
    [
        "ant\nbee\ncat\n",
        '["ant", "bee", "cat"]',
        '{"2": "cat", "0": "ant", "1": "bee"}',
        '{"bee": 1, "cat": 2, "ant": 0}',
        '{"bee": "1", "cat": "2", "ant": "0"}',
        "{0: 'ant', 1: 'bee', 2: 'cat'}",  # as YOLO writes them
        "['ant', 'bee', 'cat']",
        '{"0": ["n01", "ant"], "1": ["n02", "bee"], "2": ["n03", "cat"]}',  # as Keras writes ImageNet's
        '{"model_type": "vit", "id2label": {"0": "ant", "1": "bee", "2": "cat"}}',  # as transformers does
        '\ufeff["ant", "bee", "cat"]',
    ],
)
def test_lists_and_maps_are_read_in_the_order_of_the_indices(content: str, tmp_path: Path) -> None:
    for name in ("labels.txt", "labels.json"):
        if name == "labels.json" and content[0] not in "[{\ufeff":
            continue
        (tmp_path / name).write_text(content, "utf-8")
        assert labels.read(tmp_path / name) == ("ant", "bee", "cat")


def test_numbers_are_labels_and_indices_come_first(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"0": "7", "1": "3"}')
    assert labels.read(tmp_path / "labels.json") == ("7", "3")
    (tmp_path / "labels.json").write_text('{"7": 0, "3": 1}')
    assert labels.read(tmp_path / "labels.json") == ("7", "3")
    (tmp_path / "labels.json").write_text("[4, 2]")
    assert labels.read(tmp_path / "labels.json") == ("4", "2")


def test_a_line_may_begin_with_a_bracket(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("[background]\ncat\n")
    assert labels.read(tmp_path / "labels.txt") == ("[background]", "cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ant\nbee\n", r"^labels\.json is no JSON list or map of labels$"),
        ('["ant", "bee"', r"^labels\.json is no JSON list or map of labels$"),
        ("[" * 100_000, r"^labels\.json is no JSON list or map of labels$"),
        ("-" * 100_000, r"^labels\.json is no JSON list or map of labels$"),
        ("[" + "-" * 100_000 + "1]", r"^labels\.json is no JSON list or map of labels$"),
        ('["ant"]', r"^labels\.json holds 1 labels; a classifier needs two or more$"),
        ('["ant", " "]', r"^label 2 of labels\.json is empty; every label is a label$"),
        ('["ant", null]', r"^labels\.json holds None where a label should be$"),
        ('["ant", {"b": 1}]', r"^labels\.json holds \{'b': 1\} where a label should be$"),
        ('["ant", "b\\ne"]', r"^labels\.json holds a label of more than a line: 'b\\ne'$"),
        ('{"1": "ant", "2": "bee"}', r"^labels\.json maps labels to other indices than 0 to 1, each once$"),
        ('{"ant": 0, "bee": 0}', r"^labels\.json maps labels to other indices than 0 to 1, each once$"),
        ('{"ant": true, "bee": []}', r"^labels\.json maps labels to other indices than 0 to 1, each once$"),
        (f'["ant", "{"b" * 1001}"]', r"^labels\.json holds a label of 1,001 characters, at most 1,000"),
    ],
)
def test_a_list_or_map_without_labels_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(content, "utf-8")
    with pytest.raises(labels.LabelsError, match=message):
        labels.read(tmp_path / "labels.json")
