"""Labels are found where exporters put them, and nothing else is taken for some."""

import json
from pathlib import Path

import onnx
import pytest

from tests.export.onnx_import.onnx_files import convolutional, saved, wrapped

LABELS = ("ant", "bee", "cat", "dog", "elk")
NUMBERS = ("0", "1", "2", "3", "4")


def with_texts(path: Path, texts: dict[str, str]) -> Path:
    model = onnx.load(saved(path, *convolutional()))
    onnx.helper.set_model_props(model, texts)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", str(dict(enumerate(LABELS)))),  # Ultralytics', in Python's notation
        ("character", "\n".join(LABELS)),  # RapidOCR's
        ("classes", json.dumps(LABELS)),
        ("ClassNames", json.dumps(LABELS)),
        ("label-list", "\n".join(LABELS)),
        ("vocab", json.dumps(LABELS)),
        ("idx.to.class", json.dumps(dict(enumerate(LABELS)))),
        ("class_to_idx", json.dumps({label: index for index, label in enumerate(LABELS)})),
        ("config", json.dumps({"model_type": "resnet", "id2label": dict(enumerate(LABELS))})),
        ("pretrained_cfg", json.dumps({"mean": [0.5], "label_names": LABELS})),
        ("species", json.dumps(LABELS)),  # a key that says nothing, and a text for each score
    ],
)
def test_labels_are_found_under_many_keys(key: str, text: str, tmp_path: Path) -> None:
    found, _ = wrapped(with_texts(tmp_path / "theirs.onnx", {"author": "someone", key: text}))
    assert found.labels == LABELS
    assert any(change.startswith("labels are the file's own") and key in change for change in found.changes)


@pytest.mark.parametrize(
    "texts",
    [
        {"species": "\n".join(LABELS)},  # lines may be any text
        {"species": json.dumps(LABELS[:4])},
        {"species": json.dumps(["ant"] * 5)},
        {"anchors": "[10, 13, 16, 30, 33]"},
        {"config": json.dumps({"hidden_sizes": list(LABELS)})},
        {"config": "{"},
        {"config": "{" * 100_000},
    ],
)
def test_what_may_be_anything_is_no_labels(texts: dict[str, str], tmp_path: Path) -> None:
    found, _ = wrapped(with_texts(tmp_path / "theirs.onnx", texts))
    assert found.labels == NUMBERS


def test_labels_that_do_not_fit_are_passed_over_aloud(tmp_path: Path) -> None:
    texts = {"classes": json.dumps(LABELS[:4]), "names": json.dumps([*LABELS[:4], ""])}
    found, _ = wrapped(with_texts(tmp_path / "theirs.onnx", texts))
    assert found.labels == NUMBERS
    assert "its own labels are not taken: 'classes' has 4 for 5" in found.changes
    assert sum("not taken" in change for change in found.changes) == 2
