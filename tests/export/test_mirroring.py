"""Training pictures are mirrored where that leaves them their label, or where it was asked for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from artifact import layout
from cli.export import told
from export import pipeline
from export.training.recipes import Recipe
from zoo import catalog

QUICK = Recipe(epochs=1)


def draw_arrows(folder: Path, labels: tuple[str, str], count: int) -> Path:
    """Draw arrows to the left and to the right somewhere, bright on dark noise, into a folder a label."""
    random = np.random.default_rng(0)
    for label, leftwards in zip(labels, (True, False), strict=True):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(random.integers(0, 60, (32, 32), np.uint8))
            start, y, length = random.integers(3, 9), random.integers(8, 24), random.integers(14, 20)
            tip, tail = (start, start + length) if leftwards else (start + length, start)
            head = tip + 5 if leftwards else tip - 5
            ink, pen = int(random.integers(150, 256)), ImageDraw.Draw(image)
            pen.line([(tail, y), (tip, y)], fill=ink, width=2)
            pen.polygon([(tip, y), (head, y - 4), (head, y + 4)], fill=ink)
            image.save(folder / label / f"{index:03}.png")
    return folder


def export(folder: Path, repository: Path, **options: object) -> pipeline.Exported:
    request = pipeline.Request(repository, str(folder), precisions=("fp32",), **options)
    return pipeline.export(catalog.find("lenet5"), request)


def page(one: pipeline.Exported) -> str:
    return (one.folder / layout.CARD / "README.md").read_text("utf-8")


def right_ratio(one: pipeline.Exported) -> float:
    accuracy = one.manifest.precisions[0].accuracy
    assert accuracy.images == 24
    return accuracy.correct / accuracy.images


@pytest.mark.slow  # two whole trainings
def test_arrows_to_the_left_and_to_the_right_are_told_apart_unless_they_are_mirrored(tmp_path: Path) -> None:
    folder = draw_arrows(tmp_path / "arrows", ("left", "right"), 60)
    one = export(folder, tmp_path / "zoo")
    assert right_ratio(one) == 1
    changes = one.manifest.weights.augmentation
    assert (changes.max_shift_px, changes.mirrored, changes.unmirrored_label) == (4, False, "left")
    assert "| augmentation | shifted by up to 4 px; not mirrored, for the label left |" in page(one)
    assert list(told(one))[-1].endswith(
        "trained without mirrored pictures: the label 'left' suggests a side (--mirror mirrors all the same)"
    )
    mirrored = export(folder, tmp_path / "zoo", mirror=True)
    assert right_ratio(mirrored) <= 0.75  # half of them, by chance
    assert mirrored.manifest.weights.augmentation.mirrored
    assert "| augmentation | shifted by up to 4 px; half of the pictures mirrored |" in page(mirrored)
    assert len(list(told(mirrored))) == 1


@pytest.mark.parametrize(
    ("labels", "mirror", "mirrored", "unmirrored_label"),
    [
        (("cat", "dog"), None, True, None),
        (("cat", "dog"), False, False, None),
        (("cat", "left"), None, False, "left"),
        (("cat", "left"), True, True, None),
        (("cat", "left"), False, False, None),
    ],
)
def test_an_option_decides_else_the_labels(
    tmp_path: Path, labels: tuple[str, str], mirror: bool | None, mirrored: bool, unmirrored_label: str | None
) -> None:
    from export.data import folders

    dataset = folders.load(draw_arrows(tmp_path / "arrows", labels, 10), seed=0)
    request = pipeline.Request(tmp_path, mirror=mirror)
    recipe, label = pipeline.recipe_for(catalog.find("lenet5"), dataset, request)
    assert (recipe.mirror, label) == (mirrored, unmirrored_label)


def test_digits_are_mirrored_only_on_demand(tmp_path: Path) -> None:
    pass


def test_mirroring_of_loaded_weights_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for mirror in (True, False):
        with pytest.raises(pipeline.UntrainedError) as refused:
            pipeline.export(
                catalog.find("lenet5"), pipeline.Request(tmp_path / "zoo", "random", mirror=mirror)
            )
        assert str(refused.value) == "--mirror and --no-mirror are of trainings; random is loaded"
    assert list(tmp_path.iterdir()) == []
