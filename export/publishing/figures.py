"""The pictures of a card: losses, confusion, mistakes, latencies."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from artifact.manifest import machine_text
from export.training.recipes import Recipe
from export.training.train import Training
from modelzoo.v1 import manifest_pb2

mpl.use("Agg")  # draws into files; needs no screen
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_DPI = 110
_TRAINING_COLOUR, _VALIDATION_COLOUR = "#1f6f8b", "#d1495b"
_PRECISION_COLOURS = {"fp32": "#1f6f8b", "fp16": "#edae49", "int8": "#d1495b"}
_MISTAKES = 20  # in the grid, the most confident first
_COLUMNS = 5


def losses(path: Path, training: Training) -> None:
    """Draw training and validation loss by epoch."""
    figure = losses_figure(training)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def losses_figure(training: Training) -> Figure:
    """Return the figure of `losses`; to be closed."""
    epochs, best = training.epochs, training.best
    numbers = [epoch.number for epoch in epochs]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(
        numbers,
        [epoch.training_loss for epoch in epochs],
        color=_TRAINING_COLOUR,
        label=_training_label(training.recipe),
    )
    axes.plot(
        numbers, [epoch.validation_loss for epoch in epochs], color=_VALIDATION_COLOUR, label="validation"
    )
    axes.plot(
        best.number, best.validation_loss, "o", color=_VALIDATION_COLOUR, label=f"kept: epoch {best.number}"
    )
    axes.set(xlabel="epoch", ylabel="cross entropy (log scale)", yscale="log", title="Loss")
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    return figure


def _training_label(recipe: Recipe) -> str:
    """Say why the training loss is not to be compared with the validation loss, where it is not."""
    made_harder = []
    if recipe.max_shift_ratio > 0:
        made_harder.append("shifted images")
    if recipe.label_smoothing > 0:
        made_harder.append("smoothed labels")
    return f"training ({', '.join(made_harder)})" if made_harder else "training"


def confusion(path: Path, labels: Sequence[str], counts: npt.NDArray[np.int64]) -> None:
    """Draw counts ``[K, K]``, true label by row, answer by column; colour for the mistakes alone."""
    figure, axes = plt.subplots(figsize=(5.5, 5.5), layout="constrained")
    # The diagonal would drown the mistakes, so colour counts only them.
    mistakes = counts - np.diag(np.diag(counts))
    most, total = max(1, mistakes.max()), int(mistakes.sum())
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=2 * most)  # half the scale, so that figures stay legible
    for row, column in np.argwhere(counts):
        right = row == column
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            color="#666666" if right else "black",
            weight="normal" if right else "bold",
        )
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.set(
        xlabel="answer",
        ylabel="true label",
        title=f"{total} mistake{'' if total == 1 else 's'} in {counts.sum()} images",
    )
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def mistakes(
    path: Path,
    labels: Sequence[str],
    images: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.int64],
    answers: npt.NDArray[np.float32],
) -> int:
    """Draw the mistakes that the network was surest of; draw nothing where there is none.

    Args:
        images: uint8 ``[N, H, W, C]``.
        truth: label indices ``[N]``.
        answers: probabilities ``[N, K]``.

    Returns:
        How many are drawn.
    """
    answered = answers.argmax(axis=1)
    wrong = np.flatnonzero(answered != truth)
    worst = wrong[np.argsort(-answers[wrong, answered[wrong]], kind="stable")][:_MISTAKES]
    if not len(worst):
        return 0
    columns = min(_COLUMNS, len(worst))
    rows = -(-len(worst) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1.6 * columns, 2.0 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, worst, strict=False):
        axes.imshow(images[index].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        said, sure = labels[answered[index]], answers[index, answered[index]]
        axes.set_title(f"{said} ({sure:.0%})\nis {labels[truth[index]]}", fontsize=8)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return len(worst)


def latencies(
    path: Path, precisions: Sequence[manifest_pb2.Precision], machine: manifest_pb2.Machine
) -> None:
    """Draw the time of a batch by its size, for every precision."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    sizes: list[int] = []
    for precision in precisions:
        sizes = [latency.batch_size for latency in precision.latencies]
        times_ms = [latency.median_s * 1e3 for latency in precision.latencies]
        axes.plot(
            sizes,
            times_ms,
            "o-",
            color=_PRECISION_COLOURS[precision.name],
            label=precision.name,
            markersize=4,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.set(
        xlabel="images in a batch",
        ylabel="time of a batch, ms (log scale)",
        title=f"Latency, ONNX Runtime on {machine_text(machine)}",
    )
    axes.title.set_fontsize(10)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
