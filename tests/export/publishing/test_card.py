"""The card of a model: every label legible, in pictures and page, and true figures; checked by its texts."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image

from export.candidate import Candidate
from export.data.datasets import Split
from export.publishing import card, figures, label_text
from export.training.recipes import Recipe
from export.training.train import Epoch, Training
from modelzoo.v1 import manifest_pb2

EPOCHS = [Epoch(1, 2.0, 1.5, 0.5, 4.0, 100.0), Epoch(2, 1.0, 0.75, 0.75, 4.0, 100.0)]
BREEDS = (
    "golden retriever", "Labrador retriever", "German short-haired pointer", "Old English sheepdog",
    "Staffordshire bullterrier", "West Highland white terrier", "wire-haired fox terrier",
    "soft-coated wheaten terrier", "Cardigan Welsh corgi", "Pembroke Welsh corgi", "Shetland sheepdog",
    "Bernese mountain dog",
)  # fmt: skip
CAT = "\u732b"  # Chinese; matplotlib's own font has no glyph for it


def confusion(labels: Sequence[str]) -> Axes:
    [axes] = figures.confusion(labels, np.eye(len(labels), dtype=np.int64)).axes
    return axes


def ticks(axes: Axes) -> tuple[list[Text], list[Text]]:
    return axes.get_xticklabels(), axes.get_yticklabels()


def texts(labels: Sequence[Text]) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize(
    ("recipe", "label"),
    [
        (Recipe(max_shift_ratio=0), "training"),
        (Recipe(max_shift_ratio=0, label_smoothing=0.1), "training (smoothed labels)"),
        (Recipe(), "training (shifted images)"),
        (Recipe(max_shift_ratio=0, mirror=True), "training (mirrored images)"),
        (
            Recipe(mirror=True, label_smoothing=0.1),
            "training (shifted images, mirrored images, smoothed labels)",
        ),
    ],
)
def test_the_curve_of_the_training_is_called_after_what_its_recipe_did(recipe: Recipe, label: str) -> None:
    [axes] = figures.losses(Training(recipe, EPOCHS)).axes
    legend = axes.get_legend()
    assert legend is not None
    assert texts(legend.get_texts()) == [label, "validation", "kept: epoch 2"]
    assert axes.lines[0].get_ydata().tolist() == [2.0, 1.0]
    assert axes.lines[1].get_ydata().tolist() == [1.5, 0.75]


def test_a_training_of_one_epoch_is_a_point_at_a_whole_number() -> None:
    figure = figures.losses(Training(Recipe(), EPOCHS[:1]))
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert [line.get_marker() for line in axes.lines] == ["o", "o", "o"]
    assert axes.get_xlim() == (0.5, 1.5)
    assert texts(axes.get_xticklabels()) == ["0", "1", "2"]  # of which the 1 is in sight


def test_short_labels_stand_upright_and_in_full() -> None:
    below, beside = ticks(confusion(["cat", "dog"]))
    assert texts(below) == texts(beside) == ["cat", "dog"]
    assert [label.get_rotation() for label in below] == [0, 0]


def test_twelve_long_labels_are_slanted_shortened_and_indexed_and_overlap_nowhere() -> None:
    axes = confusion(BREEDS)
    below, beside = ticks(axes)
    assert texts(below) == texts(beside)
    assert texts(below)[:3] == ["golden retriever", "Labrador retriever", "#2 German short-h…"]
    assert {label.get_rotation() for label in below} == {45}
    figure = axes.figure
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in beside]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) > 0  # nothing is cut off
    assert min(label.get_window_extent().y0 for label in below) > 0


def test_labels_of_the_same_beginning_are_told_apart_by_their_indices() -> None:
    labels = [f"photographs of department {index} of the museum" for index in range(12)]
    drawn = [label_text.drawn(labels, index) for index in range(12)]
    assert len(set(drawn)) == 12
    assert all(re.fullmatch(rf"#{index} photographs.*…", text) for index, text in enumerate(drawn))


@pytest.mark.parametrize(
    ("label", "drawn"),
    [
        ("cat", "cat"),
        ("кошка", "кошка"),
        ("$5", "$5"),
        (CAT, "#1"),
        (f"cat {CAT}", "#1"),
        ("\u0e16\u0e38\u0e07", "#1"),  # Thai
        ("\x1b[2J", "#1"),
        (" ", "#1"),
        ("W" * 1000, "#1 WWWWWWWW…"),
    ],
)
def test_a_label_that_has_no_glyphs_is_its_index_and_one_too_long_its_beginning(
    label: str, drawn: str
) -> None:
    assert label_text.drawn(["dog", label], 1) == drawn
    assert label_text.undrawn(["dog", label], [1, 0, 1]) == ([] if drawn == label else [1])


def test_dollar_signs_are_no_mathematics() -> None:
    labels = ["$5", "$10", r"$\frac{1}$"]  # the last would not even parse
    figure = confusion(labels).figure
    figure.draw_without_rendering()
    assert [text for axes in figure.axes for text in texts(axes.get_xticklabels())] == labels
    answers = np.eye(3, dtype=np.float32)[[2]]
    figure = figures.mistakes(labels, np.zeros((1, 4, 4, 1), np.uint8), np.array([1]), answers)
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == ["$\\frac{1}$\n100%, is $10"]
    machine = manifest_pb2.Machine(processor="$x_{$ processor", threads=1)
    latency = manifest_pb2.Latency(batch_size=1, median_s=0.001)
    figure = figures.latencies([manifest_pb2.Precision(name="fp32", latencies=[latency])], machine)
    figure.draw_without_rendering()
    assert figure.axes[0].get_title() == "Latency, ONNX Runtime on $x_{$ processor, 1 thread"


def test_the_map_of_many_labels_has_indices_for_names_and_a_point_for_each_kind_of_mistake() -> None:
    pairs = np.array([[3, 7, 5], [999, 0, 1]])
    figure = figures.confusion_map(1000, pairs, 2000)
    figure.draw_without_rendering()
    axes, bar = figure.axes
    assert axes.get_title() == "6 mistakes in 2,000 images"
    assert sorted(axes.collections[0].get_offsets().tolist()) == [[0, 999], [7, 3]]  # answer, true label
    for labels in ticks(axes):
        assert [text for text in texts(labels) if text.isdecimal()][:2] == ["0", "100"]
        assert len(labels) <= 12
    assert bar.get_ylabel() == "images"
    assert texts(bar.get_yticklabels()) == ["0", "1", "2", "3", "4", "5"]


def test_the_surest_mistakes_come_first() -> None:
    answers = np.array([[0.6, 0.4], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]], np.float32)
    assert figures.surest_mistakes(np.array([1, 0, 1, 0]), answers).tolist() == [1, 3, 0]
    assert figures.surest_mistakes(np.array([0, 1, 1, 1]), answers).tolist() == []


def test_kinds_of_mistakes_are_counted_the_most_frequent_first() -> None:
    labels = np.array([0, 2, 2, 1, 0])
    answers = np.eye(3, dtype=np.float32)[[1, 0, 0, 1, 0]]
    assert card.confused_pairs(labels, answers).tolist() == [[2, 0, 2], [0, 1, 1]]
    assert card.confused_pairs(labels, np.eye(3, dtype=np.float32)[labels]).tolist() == []


def write(
    folder: Path, labels: Sequence[str], truth: list[int], answered: list[int], **weights: object
) -> str:
    """Write the card of a model that gave these answers; return its page."""
    images = np.zeros((len(truth), 4, 4, 3), np.uint8)
    right = sum(one == other for one, other in zip(truth, answered, strict=True))
    description = manifest_pb2.Manifest(
        name="net-pets",
        architecture="lenet5",
        input=manifest_pb2.Input(height=4, width=4, channels=3),
        weights=manifest_pb2.Weights(origin=manifest_pb2.ORIGIN_TRAINED, dataset="my_pets", **weights),
        precisions=[
            manifest_pb2.Precision(
                name="fp32",
                parity=[manifest_pb2.Parity(batch_size=1)],
                accuracy=manifest_pb2.Accuracy(
                    split="held-out 20 % of <b>|pets|", images=len(truth), correct=right
                ),
                latencies=[manifest_pb2.Latency(batch_size=size, median_s=0.001 * size) for size in (1, 2)],
            )
        ],
    )
    candidate = Candidate(
        description=description,
        labels=labels,
        write=lambda path: None,
        answer=lambda images: np.zeros((len(images), len(labels)), np.float32),
        held_out=Split(images, np.array(truth)),
        training=Training(Recipe(), EPOCHS),
    )
    card.write(folder, candidate, images[0], np.eye(len(labels), dtype=np.float32)[answered])
    return (folder / "README.md").read_text("utf-8")


def test_the_page_of_few_labels_spells_out_those_that_its_pictures_cannot(tmp_path: Path) -> None:
    labels = [CAT, "dog", "a|b `x` <script>", BREEDS[2]]
    page = write(tmp_path / "card", labels, [0, 1, 2, 3], [0, 1, 2, 2])
    _, _, table = page.partition("Labels by their index in the pictures, from 0:\n")
    assert table == f"\n| index | label |\n| ---: | --- |\n| #0 | {CAT} |\n| #3 | {BREEDS[2]} |\n"
    assert "true label" not in page  # the matrix has it all
    for name in ("confusion.png", "mistakes.png", "loss.png", "latency.png"):
        assert f"({name})" in page
        with Image.open(tmp_path / "card" / name) as image:
            image.verify()
    assert pyplot.get_fignums() == []  # no figure is left open


def test_the_page_of_many_labels_names_the_most_frequent_mistakes(tmp_path: Path) -> None:
    labels = [f"kind_{index} <b>" for index in range(1000)]
    page = write(tmp_path / "card", labels, [7, 7, 8, 9], [3, 3, 999, 9])
    _, _, table = page.partition("The most frequent of 2 kinds of mistakes:\n")
    assert table.splitlines()[1:5] == [
        "| true label | answer | images |",
        "| --- | --- | ---: |",
        r"| #7 kind\_7 \<b\> | #3 kind\_3 \<b\> | 2 |",
        r"| #8 kind\_8 \<b\> | #999 kind\_999 \<b\> | 1 |",
    ]
    assert "(confusion.png)" in page


def test_the_page_of_many_labels_without_a_mistake_has_no_map(tmp_path: Path) -> None:
    page = write(tmp_path / "card", [f"kind {index}" for index in range(30)], [7, 8], [7, 8])
    assert "confusion" not in page
    assert "mistake" not in page
    assert sorted(path.name for path in (tmp_path / "card").glob("*.png")) == [
        "example.png",
        "latency.png",
        "loss.png",
    ]


@pytest.mark.parametrize(
    ("augmentation", "line"),
    [
        ({"max_shift_px": 2}, "shifted by up to 2 px; not mirrored"),
        ({"max_shift_px": 4, "mirrored": True}, "shifted by up to 4 px; half of the pictures mirrored"),
        ({}, "not shifted; not mirrored"),
        ({"unmirrored_label": "turn_left|"}, r"not shifted; not mirrored, for the label turn\_left\|"),
    ],
)
def test_the_page_names_every_augmentation_with_its_size(augmentation: dict[str, object], line: str) -> None:
    weights = manifest_pb2.Weights(augmentation=manifest_pb2.Augmentation(**augmentation))
    assert card.augmentation_rows(weights) == [f"| augmentation | {line} |"]
    assert card.augmentation_rows(manifest_pb2.Weights()) == []


def test_an_accuracy_comes_with_its_interval() -> None:
    assert card.share(manifest_pb2.Accuracy(images=360, correct=350)) == (
        "97.2 % (95.0 to 98.5 %, 350 of 360)"
    )
    assert card.share(manifest_pb2.Accuracy(images=10_000, correct=10_000)) == (
        "100.0 % (100.0 to 100.0 %, 10,000 of 10,000)"
    )


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "`x`",
        "<script>alert(1)</script>",
        "$x$ and $y$",
        "[a](http://b)",
        "![a](b)",
        "*a* _b_ ~~c~~",
        "&amp;",
        *("\\", "\\|", "a_b_c", "# no title", "- no list", "1. no list", "a  b"),
    ],
)
def test_a_label_in_a_page_is_text_whatever_it_holds(text: str) -> None:
    page = f"| label | images |\n| --- | --- |\n| {label_text.markdown(text)} | 1 |\n"
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(page)
    cells = [token.children for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    assert {child.type for child in cells[2]} <= {"text", "text_special"}
    assert "".join(child.content for child in cells[2]) == text


def test_a_label_in_a_page_moves_no_cursor() -> None:
    assert label_text.markdown("a\x1b[2J\u202eb\nc") == r"a \[2J b c"
