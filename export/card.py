"""The card of an artifact: pictures and a page that show how it was trained and where it errs."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image

from artifact import layout
from export.recipes import Recipe
from export.train import Training
from modelzoo.v1 import manifest_pb2

mpl.use("Agg")  # draws into files; needs no screen
from matplotlib import pyplot as plt

_DPI = 110
_TRAINING_COLOUR, _VALIDATION_COLOUR = "#1f6f8b", "#d1495b"


def write(
    folder: Path,
    manifest: manifest_pb2.Manifest,
    training: Training,
    labels: Sequence[str],
    confusion: npt.NDArray[np.int64],
    example: npt.NDArray[np.uint8],
) -> None:
    """Write ``README.md`` and its pictures into ``folder``.

    Args:
        confusion: counts on the held-out images, ``[K, K]``, true label by row, answer by column.
        example: a held-out image as the dataset has it, uint8 ``[h, w, C]``, to try the server with.
    """
    folder.mkdir()
    Image.fromarray(example.squeeze()).save(folder / layout.EXAMPLE)
    _draw_losses(folder / "loss.png", training)
    _draw_confusion(folder / "confusion.png", labels, confusion)
    (folder / "README.md").write_text(_page(manifest, training), "utf-8")


def confusion_matrix(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Count answers, ``[K, K]``, true label by row, most probable label by column."""
    label_count = probabilities.shape[1]
    counts = np.zeros((label_count, label_count), np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return counts


def _draw_losses(path: Path, training: Training) -> None:
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
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _training_label(recipe: Recipe) -> str:
    """Say why the training loss is not to be compared with the validation loss, where it is not."""
    made_harder = []
    if recipe.max_shift_ratio > 0:
        made_harder.append("shifted images")
    if recipe.label_smoothing > 0:
        made_harder.append("smoothed labels")
    return f"training ({', '.join(made_harder)})" if made_harder else "training"


def _draw_confusion(path: Path, labels: Sequence[str], confusion: npt.NDArray[np.int64]) -> None:
    figure, axes = plt.subplots(figsize=(5.5, 5.5), layout="constrained")
    # The diagonal would drown the mistakes, so colour counts only them.
    mistakes = confusion - np.diag(np.diag(confusion))
    most = max(1, mistakes.max())
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=2 * most)  # half the scale, so that figures stay legible
    for row, column in np.argwhere(confusion):
        right = row == column
        axes.text(
            column,
            row,
            str(confusion[row, column]),
            ha="center",
            va="center",
            color="#666666" if right else "black",
            weight="normal" if right else "bold",
        )
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.set(
        xlabel="answer", ylabel="true label", title=f"{mistakes.sum()} mistakes in {confusion.sum()} images"
    )
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _page(manifest: manifest_pb2.Manifest, training: Training) -> str:
    fp32 = manifest.precisions[0]
    worst = max(fp32.parity, key=lambda parity: parity.max_abs_difference)
    shape, accuracy = manifest.input, manifest.accuracy
    weights, best = manifest.weights, training.best
    lines = [
        f"# {manifest.name}",
        "",
        f"{_origin(manifest)} {manifest.parameters:,} parameters, input {shape.height} x {shape.width} x "
        f"{shape.channels}, {manifest.label_count} labels.",
        "",
        "| | |",
        "| --- | --- |",
        f"| accuracy | {accuracy.correct} of {accuracy.images} "
        f"({accuracy.correct / accuracy.images:.2%}), {accuracy.split} |",
        f"| parity with PyTorch | probabilities differ by at most {worst.max_abs_difference:.1e}, "
        f"all {worst.images} labels equal, at batch sizes "
        f"{', '.join(str(parity.batch_size) for parity in fp32.parity)} |",
        f"| training | {_starts(weights.starts)}{weights.epochs} epochs in {weights.training_s:.1f} s, "
        f"epoch {best.number} kept (validation loss {best.validation_loss:.4f}), "
        f"seed {training.recipe.seed} |",
        f"| file | `{fp32.file.name}`, {fp32.file.size_bytes:,} bytes, sha256 `{fp32.file.sha256}` |",
        "",
        *_deviations(manifest),
        "![training and validation loss by epoch](loss.png)",
        "",
        "![confusion matrix on the held-out images](confusion.png)",
        "",
    ]
    return "\n".join(lines)


def _origin(manifest: manifest_pb2.Manifest) -> str:
    if not manifest.HasField("paper"):
        return f"`{manifest.architecture}`, a notebook exercise without a paper."
    paper = manifest.paper
    return f"`{manifest.architecture}`: {paper.authors}, [{paper.title}]({paper.link}), {paper.year}."


def _starts(starts: int) -> str:
    return f"the best of {starts} starts of " if starts > 1 else ""


def _deviations(manifest: manifest_pb2.Manifest) -> list[str]:
    if not manifest.deviations:
        return []
    original = "paper" if manifest.HasField("paper") else "notebook"
    return [f"Differs from the {original}:", "", *(f"- {said}" for said in manifest.deviations), ""]
