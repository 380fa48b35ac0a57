"""The card says of a training what was done in it, and nothing that was not."""

import pytest
from matplotlib import pyplot

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
    figure = figures.losses_figure(Training(recipe, EPOCHS))
    [axes] = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [label, "validation", "kept: epoch 2"]
    assert axes.lines[0].get_ydata().tolist() == [2.0, 1.0]
    assert axes.lines[1].get_ydata().tolist() == [1.5, 0.75]
    pyplot.close(figure)
