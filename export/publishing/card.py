"""The card of an artifact: a page with pictures, of where it comes from, how good it is, where it errs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from artifact import layout
from artifact.manifest import wilson_interval
from export.candidate import Candidate
from export.data.datasets import Split
from export.graph.verification import Probabilities
from export.publishing import figures, label_text
from export.publishing.label_text import markdown
from export.training.train import Training
from modelzoo.v1 import manifest_pb2

_MOST_PAIRS = 10  # of labels that are taken for each other, in the page's table


def write(
    folder: Path, candidate: Candidate, example: npt.NDArray[np.uint8], answers: Probabilities | None
) -> None:
    """Write ``README.md`` and its pictures into ``folder``.

    Args:
        candidate: its description is complete but for what `publish` adds.
        example: an input, uint8 ``[H, W, C]``, to try the server with.
        answers: the fp32 file's, to the held-out pictures, ``[N, K]``; absent where there are none.
    """
    folder.mkdir()
    manifest = candidate.description
    Image.fromarray(example.squeeze()).save(folder / layout.EXAMPLE)
    figures.save(figures.latencies(manifest.precisions, manifest.machine), folder / "latency.png")
    pictures: list[str] = []
    tables: list[str] = []
    if candidate.training is not None:
        figures.save(figures.losses(candidate.training), folder / "loss.png")
        pictures.append("![training and validation loss by epoch](loss.png)")
    if candidate.held_out is not None and answers is not None:
        drawn, tables = _draw_answers(folder, candidate.labels, candidate.held_out, answers)
        pictures += drawn
    pictures.append("![time of a batch by its size](latency.png)")
    page = [*_page(manifest, candidate.training), *(line for one in pictures for line in (one, "")), *tables]
    (folder / "README.md").write_text("\n".join(page), "utf-8")


def confusion_matrix(labels: npt.NDArray[np.int64], answers: Probabilities) -> npt.NDArray[np.int64]:
    """Count answers, ``[K, K]``, true label by row, most probable label by column."""
    label_count = answers.shape[1]
    counts = np.zeros((label_count, label_count), np.int64)
    np.add.at(counts, (labels, answers.argmax(axis=1)), 1)
    return counts


def confused_pairs(labels: npt.NDArray[np.int64], answers: Probabilities) -> npt.NDArray[np.int64]:
    """Count the mistakes of each kind, the most frequent first.

    Unlike the matrix, this takes memory by the mistakes, not by the square of the labels.

    Returns:
        ``[P, 3]``: true label, answer, how often.
    """
    answered = answers.argmax(axis=1)
    wrong = answered != labels
    pairs, counts = np.unique(np.stack([labels[wrong], answered[wrong]], axis=1), axis=0, return_counts=True)
    return np.column_stack([pairs, counts])[np.argsort(-counts, kind="stable")]


def share(accuracy: manifest_pb2.Accuracy) -> str:
    """Write an accuracy with its 95 % interval: ``99.4 % (98.0 to 99.8 %, 358 of 360)``."""
    low, high = wilson_interval(accuracy.correct, accuracy.images)
    return (
        f"{100 * accuracy.correct / accuracy.images:.1f} % ({100 * low:.1f} to {100 * high:.1f} %, "
        f"{accuracy.correct:,} of {accuracy.images:,})"
    )


def _draw_answers(
    folder: Path, labels: Sequence[str], held_out: Split, answers: Probabilities
) -> tuple[list[str], list[str]]:
    """Draw what was answered to the held-out pictures, ``[N, K]``.

    Returns:
        Lines of the page that show the figures, and tables of what these cannot spell out.
    """
    pictures: list[str] = []
    tables: list[str] = []
    named: list[int] = []  # labels in the figures
    pairs = confused_pairs(held_out.labels, answers)
    figure = None
    if len(labels) <= figures.MOST_NAMED:
        figure = figures.confusion(labels, confusion_matrix(held_out.labels, answers))
        named += range(len(labels))
    elif len(pairs):
        figure = figures.confusion_map(len(labels), pairs, len(held_out.labels))
        tables += _confused(labels, pairs)
    if figure is not None:
        figures.save(figure, folder / "confusion.png")
        pictures.append("![confusion matrix on the held-out images](confusion.png)")
    worst = figures.surest_mistakes(held_out.labels, answers)
    if len(worst):
        truth = held_out.labels[worst]
        figure = figures.mistakes(labels, held_out.images[worst], truth, answers[worst])
        figures.save(figure, folder / "mistakes.png")
        pictures.append("![the mistakes it was surest of](mistakes.png)")
        named += [*truth.tolist(), *answers[worst].argmax(axis=1).tolist()]
    return pictures, tables + _indexed(labels, label_text.undrawn(labels, named))


def _confused(labels: Sequence[str], pairs: npt.NDArray[np.int64]) -> list[str]:
    """Name the labels that were taken for each other most often, where the matrix is too large for names."""
    rows = (
        f"| #{truth} {markdown(labels[truth])} | #{answer} {markdown(labels[answer])} | {count:,} |"
        for truth, answer, count in pairs[:_MOST_PAIRS].tolist()
    )
    title = f"The most frequent of {len(pairs):,} kinds of mistakes:" if len(pairs) > 1 else "The mistake:"
    return [title, "", "| true label | answer | images |", "| --- | --- | ---: |", *rows, ""]


def _indexed(labels: Sequence[str], indices: Sequence[int]) -> list[str]:
    """Spell out the labels that the pictures show by their index."""
    if not indices:
        return []
    rows = (f"| #{index} | {markdown(labels[index])} |" for index in indices)
    return [
        "Labels by their index in the pictures, from 0:",
        "",
        "| index | label |",
        "| ---: | --- |",
        *rows,
        "",
    ]


def _page(manifest: manifest_pb2.Manifest, training: Training | None) -> list[str]:
    shape = manifest.input
    return [
        f"# {manifest.name}",
        "",
        f"{_origin(manifest)} {manifest.parameters:,} parameters{_macs(manifest)}, "
        f"input {shape.height} x {shape.width} x {shape.channels}, {manifest.label_count} labels.",
        "",
        "| | |",
        "| --- | --- |",
        f"| weights | {_weights(manifest, training)} |",
        *augmentation_rows(manifest.weights),
        f"| accuracy | {_accuracy(manifest)} |",
        f"| parity with {manifest.reference} | {_parity(manifest.precisions[0])} |",
        "",
        "| precision | file | right (95 % interval) | same label as fp32 | difference | images/s |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(precision) for precision in manifest.precisions),
        "",
        *(f"Not published: {markdown(refusal.reason)}.\n" for refusal in manifest.refusals),
        *_deviations(manifest),
    ]


def augmentation_rows(weights: manifest_pb2.Weights) -> list[str]:
    """Name the changes of training pictures, with their sizes; nothing where nothing was trained here."""
    if not weights.HasField("augmentation"):
        return []
    changes = weights.augmentation
    shifted = f"shifted by up to {changes.max_shift_px} px" if changes.max_shift_px else "not shifted"
    mirrored = "half of the pictures mirrored" if changes.mirrored else "not mirrored"
    if changes.unmirrored_label:
        mirrored += f", for the label {markdown(changes.unmirrored_label)}"
    return [f"| augmentation | {shifted}; {mirrored} |"]


def _macs(manifest: manifest_pb2.Manifest) -> str:
    return f", {manifest.macs / 1e6:,.1f} million multiply-accumulates an image" if manifest.macs else ""


def _row(precision: manifest_pb2.Precision) -> str:
    right = share(precision.accuracy) if precision.HasField("accuracy") else "not measured"
    same = (
        f"{precision.agreement.same:,} of {precision.agreement.images:,}"
        if precision.agreement.images
        else "-"
    )
    speeds = ", ".join(
        f"{latency.batch_size / latency.median_s:,.0f} at {latency.batch_size}"
        for latency in precision.latencies
    )
    file = f"`{precision.file.name}`, {precision.file.size_bytes:,} bytes"
    ungated = ", published all the same" if precision.ungated else ""
    worst = max(parity.max_abs_difference for parity in precision.parity)
    return f"| {precision.name}{ungated} | {file} | {right} | {same} | {worst:.1e} | {speeds} |"


def _parity(fp32: manifest_pb2.Precision) -> str:
    worst = max(fp32.parity, key=lambda parity: parity.max_abs_difference)
    sizes = ", ".join(str(parity.batch_size) for parity in fp32.parity)
    return (
        f"probabilities differ by at most {worst.max_abs_difference:.1e}, all {worst.images} labels equal, "
        f"at batch sizes {sizes}"
    )


def _accuracy(manifest: manifest_pb2.Manifest) -> str:
    fp32, weights = manifest.precisions[0], manifest.weights
    if fp32.HasField("accuracy"):
        return f"{share(fp32.accuracy)}, {markdown(fp32.accuracy.split)}; in brackets the 95 % interval"
    if weights.HasField("stated_accuracy_ratio"):
        return f"not measured; their maker states {100 * weights.stated_accuracy_ratio:.2f} %"
    return "not measured"


def _weights(manifest: manifest_pb2.Manifest, training: Training | None) -> str:
    weights = manifest.weights
    if training is None:
        digest = f", sha256 `{weights.sha256}`" if weights.sha256 else ""
        for file in weights.data_files:
            digest += f"; with {markdown(file.name)}, sha256 `{file.sha256}`"
        what = {
            manifest_pb2.ORIGIN_RANDOM: "random: nothing was trained",
            manifest_pb2.ORIGIN_IMPORTED: f"came with {markdown(weights.source)}",
        }.get(weights.origin, f"loaded from {markdown(weights.source)}")
        return what + digest
    best, starts = training.best, f"the best of {weights.starts} starts of " if weights.starts > 1 else ""
    return (
        f"trained on {markdown(weights.dataset)}, {starts}{weights.epochs} epochs in "
        f"{weights.training_s:.1f} s, epoch {best.number} kept (validation loss {best.validation_loss:.4f}), "
        f"seed {training.recipe.seed}"
    )


def _origin(manifest: manifest_pb2.Manifest) -> str:
    if manifest.weights.origin == manifest_pb2.ORIGIN_IMPORTED:
        return "An imported graph."
    if not manifest.HasField("paper"):
        return f"`{manifest.architecture}`, a notebook exercise without a paper."
    paper = manifest.paper
    return f"`{manifest.architecture}`: {paper.authors}, [{paper.title}]({paper.link}), {paper.year}."


def _deviations(manifest: manifest_pb2.Manifest) -> list[str]:
    if not manifest.deviations:
        return []
    original = "paper" if manifest.HasField("paper") else "original"
    return [f"Differs from the {original}:", "", *(f"- {markdown(said)}" for said in manifest.deviations), ""]
