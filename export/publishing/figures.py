"""The pictures of a card: losses, confusion, mistakes, latencies.

Figures are made without pyplot, which would hold on to every one of them until it is closed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from artifact.manifest import machine_text
from export.publishing import label_text
from export.training.recipes import Recipe
from export.training.train import Training
from modelzoo.v1 import manifest_pb2

MOST_NAMED = 20  # labels that a confusion matrix can name, with the count of each pair, and still be read
MISTAKES = 20  # in the grid, the most confident first

_DPI = 110
_POINTS_PER_INCH = 72
_TRAINING_COLOUR, _VALIDATION_COLOUR = "#1f6f8b", "#d1495b"
_PRECISION_COLOURS = {"fp32": "#1f6f8b", "fp16": "#edae49", "int8": "#d1495b"}
_COLUMNS = 5  # of mistakes
_LABEL_PT = 9
_CAPTION_PT = 8


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a picture."""
    figure.savefig(path, dpi=_DPI)


def losses(training: Training) -> Figure:
    """Draw training and validation loss by epoch."""
    epochs, best = training.epochs, training.best
    numbers = [epoch.number for epoch in epochs]
    marker = "" if len(epochs) > 1 else "o"  # one epoch is no line
    figure, axes = _axes(7, 4)
    axes.plot(
        numbers,
        [epoch.training_loss for epoch in epochs],
        color=_TRAINING_COLOUR,
        marker=marker,
        label=_training_label(training.recipe),
    )
    axes.plot(
        numbers,
        [epoch.validation_loss for epoch in epochs],
        color=_VALIDATION_COLOUR,
        marker=marker,
        label="validation",
    )
    axes.plot(
        best.number, best.validation_loss, "o", color=_VALIDATION_COLOUR, label=f"kept: epoch {best.number}"
    )
    axes.set(xlabel="epoch", ylabel="cross entropy (log scale)", title="Loss")
    _scale_by_logarithm(
        axes, [loss for epoch in epochs for loss in (epoch.training_loss, epoch.validation_loss)]
    )
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    return figure


def _training_label(recipe: Recipe) -> str:
    """Say why the training loss is not to be compared with the validation loss, where it is not."""
    made_harder = []
    if recipe.max_shift_ratio > 0:
        made_harder.append("shifted images")
    if recipe.mirror:
        made_harder.append("mirrored images")
    if recipe.label_smoothing > 0:
        made_harder.append("smoothed labels")
    return f"training ({', '.join(made_harder)})" if made_harder else "training"


def confusion(labels: Sequence[str], counts: npt.NDArray[np.int64]) -> Figure:
    """Draw the confusion matrix of few labels, with names and counts; colour for the mistakes alone.

    Args:
        counts: ``[K, K]``, true label by row, answer by column; K is at most `MOST_NAMED`.
    """
    names = [label_text.drawn(labels, index) for index in range(len(labels))]
    widest_pt = max(label_text.width_pt(name, _LABEL_PT) for name in names)
    cell_pt = max(30, 12 + _LABEL_PT * 0.7 * len(str(counts.max())))
    side_pt = max(180, cell_pt * len(labels))
    margin_pt = 60 + widest_pt
    figure, axes = _axes((side_pt + margin_pt) / _POINTS_PER_INCH, (side_pt + margin_pt) / _POINTS_PER_INCH)
    # The diagonal would drown the mistakes, so colour counts only them.
    mistakes = counts - np.diag(np.diag(counts))
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=2 * max(1, mistakes.max()))  # half, for legible figures
    for row, column in np.argwhere(counts):
        right = row == column
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}",
            ha="center",
            va="center",
            fontsize=_LABEL_PT,
            color="#666666" if right else "black",
            weight="normal" if right else "bold",
        )
    crowded = widest_pt > side_pt / len(labels)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(names)), names, parse_math=False, fontsize=_LABEL_PT)
    if crowded:
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel="answer", ylabel="true label", title=_mistakes_title(int(mistakes.sum()), counts.sum()))
    return figure


def confusion_map(label_count: int, pairs: npt.NDArray[np.int64], image_count: int) -> Figure:
    """Draw which of many labels were taken for which, a point a pair; names would not be legible.

    Args:
        pairs: ``[P, 3]``: true label, answer, how often; mistakes only, at least one.
        image_count: how many were classified.
    """
    figure, axes = _axes(7, 6)
    ends = (-0.5, label_count - 0.5)
    axes.plot(ends, ends, color="#cccccc", linewidth=0.8, zorder=0)  # where right answers would be
    cell_pt = 360 / label_count  # the axes have about 5 inches
    truth, answers, counts = pairs.T
    order = np.argsort(counts, kind="stable")  # the most frequent on top
    points = axes.scatter(
        answers[order],
        truth[order],
        c=counts[order],
        s=min(12.0, max(3.0, cell_pt)) ** 2,  # area, in square points
        cmap="YlOrRd",
        vmin=0,
        vmax=counts.max(),
        edgecolors="#666666",
        linewidths=0.2,
    )
    if counts.max() > 1:
        figure.colorbar(points, label="images", shrink=0.6, ticks=_whole_numbers())
    axes.set(
        xlim=ends,
        ylim=ends[::-1],
        aspect="equal",
        xlabel="index of the answer",
        ylabel="index of the true label",
        title=_mistakes_title(int(counts.sum()), image_count),
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_whole_numbers())
    axes.grid(visible=True, alpha=0.2)
    return figure


def mistakes(
    labels: Sequence[str],
    images: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.int64],
    answers: npt.NDArray[np.float32],
) -> Figure:
    """Draw mistakes, with what was answered how surely and what is right.

    Args:
        images: uint8 ``[M, H, W, C]``; M is 1 to `MISTAKES`.
        truth: label indices ``[M]``.
        answers: probabilities ``[M, K]``.
    """
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    spaced = ConstrainedLayoutEngine(h_pad=0.08)  # inches
    figure = Figure(figsize=(1.9 * columns, 2.35 * rows), layout=spaced)
    # Without ticks: they would not be seen, and yet be laid out, which takes most of the time.
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"xticks": (), "yticks": ()})
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, right, scores in zip(grid.flat, images, truth, answers, strict=False):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        answer = scores.argmax()
        # A label alone in its line, or at the end of it: scripts from right to left turn what follows around.
        caption = (
            f"{label_text.drawn(labels, answer)}\n{scores[answer]:.0%}, is {label_text.drawn(labels, right)}"
        )
        axes.set_title(caption, fontsize=_CAPTION_PT, parse_math=False)
    return figure


def surest_mistakes(truth: npt.NDArray[np.int64], answers: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Choose the mistakes that the network was surest of, the surest first; at most `MISTAKES`.

    Args:
        truth: label indices ``[N]``.
        answers: probabilities ``[N, K]``.

    Returns:
        Their rows, ``[M]``.
    """
    wrong = np.flatnonzero(answers.argmax(axis=1) != truth)
    return wrong[np.argsort(-answers[wrong].max(axis=1), kind="stable")][:MISTAKES]


def latencies(precisions: Sequence[manifest_pb2.Precision], machine: manifest_pb2.Machine) -> Figure:
    """Draw the time of a batch by its size, for every precision."""
    figure, axes = _axes(7, 4)
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
    _scale_by_logarithm(axes, [latency.median_s * 1e3 for one in precisions for latency in one.latencies])
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="images in a batch", ylabel="time of a batch, ms (log scale)")
    axes.set_title(f"Latency, ONNX Runtime on {machine_text(machine)}", fontsize=10, parse_math=False)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    return figure


def _axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def _scale_by_logarithm(axes: Axes, values: Sequence[float]) -> None:
    """Scale the vertical axis, with ticks at 1, 2 and 5 of each decade, or at 1 alone where they are many."""
    axes.set_yscale("log")
    low, high = min(values), max(values)
    marks = (1, 2, 5) if high < 1e4 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks) if high > 5 * low else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, min_n_ticks=1)


def _mistakes_title(mistakes: int, images: int) -> str:
    return f"{mistakes:,} mistake{'' if mistakes == 1 else 's'} in {images:,} images"
