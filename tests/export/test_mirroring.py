"""Training pictures are mirrored where that leaves them their label, or where it was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from artifact import layout, manifest
from cli.export import told
from export import pipeline, sources
from export.data import datasets, folders
from export.training import recipes, train
from export.training.recipes import Recipe
from zoo import catalog

LENET = catalog.find("lenet5")


def draw_arrows(folder: Path, labels: tuple[str, str], count: int) -> Path:
    """Draw arrows to the left somewhere, bright on dark noise, and their mirror images: a folder each."""
    random = np.random.default_rng(0)
    for label, leftwards in zip(labels, (True, False), strict=True):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(random.integers(0, 60, (32, 32), np.uint8))
            x, y, length = random.integers(3, 9), random.integers(8, 24), random.integers(14, 20)
            ink, pen = int(random.integers(150, 256)), ImageDraw.Draw(image)
            pen.line([(x, y), (x + length, y)], fill=ink, width=2)
            pen.polygon([(x, y), (x + 5, y - 4), (x + 5, y + 4)], fill=ink)
            image = image if leftwards else ImageOps.mirror(image)
            image.save(folder / label / f"{index:03}.png")
    return folder


@pytest.mark.slow  # two whole trainings
def test_arrows_to_the_left_and_to_the_right_are_told_apart_unless_they_are_mirrored(tmp_path: Path) -> None:
    folder = draw_arrows(tmp_path / "arrows", ("left", "right"), 60)
    request = pipeline.Request(tmp_path / "zoo", str(folder), precisions=("fp32",))
    one = pipeline.export(LENET, request)
    accuracy = one.manifest.precisions[0].accuracy
    assert (accuracy.correct, accuracy.images) == (24, 24)
    changes = manifest.read(one.folder).weights.augmentation
    assert (changes.max_shift_px, changes.mirrored, changes.unmirrored_label) == (4, False, "left")
    page = (one.folder / layout.CARD / "README.md").read_text("utf-8")
    assert "| augmentation | shifted by up to 4 px; not mirrored, for the label left |" in page
    assert list(told(one))[-1].endswith(
        "trained without mirrored pictures: the label 'left' suggests a side (--mirror mirrors all the same)"
    )

    dataset = folders.load(folder, seed=0)
    recipe, _ = pipeline.recipe_for(LENET, dataset, replace(request, mirror=True))
    served, candidate = sources.trained(LENET, "mirrored", dataset, recipe, tmp_path, pipeline.Silent())
    answers = train.probabilities(served, candidate.held_out.images).argmax(axis=1)
    assert int((answers == candidate.held_out.labels).sum()) <= 18  # 12 by chance


@pytest.mark.parametrize(
    ("labels", "mirror", "mirrored", "unmirrored_label"),
    [
        (("cat", "dog"), None, True, ""),
        (("cat", "dog"), False, False, ""),
        (("cat", "left"), None, False, "left"),
        (("cat", "left"), True, True, ""),
        (("cat", "left"), False, False, ""),
    ],
)
def test_an_option_decides_else_the_labels(
    tmp_path: Path, labels: tuple[str, str], mirror: bool | None, mirrored: bool, unmirrored_label: str
) -> None:
    dataset = folders.load(draw_arrows(tmp_path / "arrows", labels, 10), seed=0)
    request = pipeline.Request(tmp_path, mirror=mirror)
    recipe, label = pipeline.recipe_for(LENET, dataset, request)
    assert (recipe.mirror, label) == (mirrored, unmirrored_label)


@pytest.mark.parametrize("mirror", [None, True, False])
def test_digits_and_recipes_of_others_are_mirrored_as_they_say_or_on_demand(
    tmp_path: Path, mirror: bool | None
) -> None:
    dataset = datasets.load("digits", seed=0, cache=tmp_path)
    for recipe in (None, Recipe(), Recipe(mirror=True)):
        request = pipeline.Request(tmp_path, mirror=mirror, recipe=recipe)
        found, label = pipeline.recipe_for(LENET, dataset, request)
        expected = bool(recipe and recipe.mirror) if mirror is None else mirror
        assert (found.mirror, label) == (expected, "")


def test_a_folder_that_is_called_like_a_dataset_is_trained_like_a_folder(tmp_path: Path) -> None:
    folder = draw_arrows(tmp_path / "mnist", ("cat", "dog"), 5)
    dataset = folders.load(folder, seed=0)
    recipe, _ = pipeline.recipe_for(LENET, dataset, pipeline.Request(tmp_path, str(folder)))
    assert recipe == recipes.find("lenet5", "pets", mirror=True)
    assert recipe != recipes.find("lenet5", "mnist", mirror=True)


def test_mirroring_of_loaded_weights_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for mirror in (True, False):
        with pytest.raises(pipeline.InapplicableError) as refused:
            pipeline.export(LENET, pipeline.Request(tmp_path / "zoo", "random", mirror=mirror))
        assert str(refused.value) == "--mirror and --no-mirror are for a training, not for random"
    assert list(tmp_path.iterdir()) == []
