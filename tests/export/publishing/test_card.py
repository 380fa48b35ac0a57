"""The card says of a training what was done in it, and nothing that was not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.publishing import figures
from export.training.recipes import Recipe
from export.training.train import Epoch, Training

EPOCHS = [Epoch(1, 2.0, 1.5, 0.5, 4.0, 100.0), Epoch(2, 1.0, 0.75, 0.75, 4.0, 100.0)]


@pytest.mark.parametrize(
    ("label_smoothing", "max_shift_ratio", "label"),
    [
        (0.0, 0.0, "training"),
        (0.1, 0.0, "training (smoothed labels)"),
        (0.0, 0.125, "training (shifted images)"),
        (0.1, 0.125, "training (shifted images, smoothed labels)"),
    ],
)
def test_the_curve_of_the_training_is_called_after_what_its_recipe_did(
    label_smoothing: float, max_shift_ratio: float, label: str
) -> None:
    recipe = Recipe(label_smoothing=label_smoothing, max_shift_ratio=max_shift_ratio)
    assert figures._training_label(recipe) == label


def drawn(path: Path, label_smoothing: float) -> np.ndarray:
    figures.losses(path, Training(Recipe(label_smoothing=label_smoothing), EPOCHS))
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_the_drawing_of_a_training_without_smoothing_does_not_speak_of_it(tmp_path: Path) -> None:
    plain, again, smoothed = (drawn(tmp_path / "loss.png", smoothing) for smoothing in (0.0, 0.0, 0.1))
    assert np.array_equal(plain, again)
    # The same losses, but a shorter legend: two words fewer are fewer dark pixels.
    assert (plain < 128).sum() < (smoothed < 128).sum()
