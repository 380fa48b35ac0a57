"""The card of an artifact: a page with pictures, of where it comes from, how good it is, where it errs."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from artifact import layout
from export.candidate import Candidate
from export.graph.verification import Probabilities
from export.publishing import figures
from export.training.train import Training
from modelzoo.v1 import manifest_pb2

_MOST_LABELS = 20  # that a confusion matrix can show and still be read


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
    figures.latencies(folder / "latency.png", manifest.precisions, manifest.machine)
    pictures = ["![time of a batch by its size](latency.png)"]
    if candidate.held_out is not None and answers is not None:
        held_out = candidate.held_out
        if figures.mistakes(
            folder / "mistakes.png", candidate.labels, held_out.images, held_out.labels, answers
        ):
            pictures.insert(0, "![the mistakes it was surest of](mistakes.png)")
        if len(candidate.labels) <= _MOST_LABELS:
            counts = confusion_matrix(held_out.labels, answers)
            figures.confusion(folder / "confusion.png", candidate.labels, counts)
            pictures.insert(0, "![confusion matrix on the held-out images](confusion.png)")
    if candidate.training is not None:
        figures.losses(folder / "loss.png", candidate.training)
        pictures.insert(0, "![training and validation loss by epoch](loss.png)")
    (folder / "README.md").write_text(_page(manifest, candidate.training, pictures), "utf-8")


def confusion_matrix(labels: npt.NDArray[np.int64], answers: Probabilities) -> npt.NDArray[np.int64]:
    """Count answers, ``[K, K]``, true label by row, most probable label by column."""
    label_count = answers.shape[1]
    counts = np.zeros((label_count, label_count), np.int64)
    np.add.at(counts, (labels, answers.argmax(axis=1)), 1)
    return counts


def share(accuracy: manifest_pb2.Accuracy) -> str:
    """Write an accuracy as people do: ``358 of 360 (99.44 %)``."""
    return f"{accuracy.correct:,} of {accuracy.images:,} ({100 * accuracy.correct / accuracy.images:.2f} %)"


def _page(manifest: manifest_pb2.Manifest, training: Training | None, pictures: list[str]) -> str:
    shape = manifest.input
    lines = [
        f"# {manifest.name}",
        "",
        f"{_origin(manifest)} {manifest.parameters:,} parameters{_macs(manifest)}, "
        f"input {shape.height} x {shape.width} x {shape.channels}, {manifest.label_count} labels.",
        "",
        "| | |",
        "| --- | --- |",
        f"| weights | {_weights(manifest, training)} |",
        f"| accuracy | {_accuracy(manifest)} |",
        f"| parity with {manifest.reference} | {_parity(manifest.precisions[0])} |",
        "",
        "| precision | file | right | same label as fp32 | difference | images/s |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(precision) for precision in manifest.precisions),
        "",
        *(f"Not published: {refusal.reason}.\n" for refusal in manifest.refusals),
        *_deviations(manifest),
        *(line for picture in pictures for line in (picture, "")),
    ]
    return "\n".join(lines)


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
        return f"{share(fp32.accuracy)}, {fp32.accuracy.split}"
    if weights.HasField("stated_accuracy_ratio"):
        return f"not measured; their maker states {100 * weights.stated_accuracy_ratio:.2f} %"
    return "not measured"


def _weights(manifest: manifest_pb2.Manifest, training: Training | None) -> str:
    weights = manifest.weights
    if training is None:
        digest = f", sha256 `{weights.sha256}`" if weights.sha256 else ""
        what = {
            manifest_pb2.ORIGIN_RANDOM: "random: nothing was trained",
            manifest_pb2.ORIGIN_IMPORTED: f"came with {weights.source}",
        }.get(weights.origin, f"loaded from {weights.source}")
        return what + digest
    best, starts = training.best, f"the best of {weights.starts} starts of " if weights.starts > 1 else ""
    return (
        f"trained on {weights.dataset}, {starts}{weights.epochs} epochs in {weights.training_s:.1f} s, "
        f"epoch {best.number} kept (validation loss {best.validation_loss:.4f}), seed {training.recipe.seed}"
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
    return [f"Differs from the {original}:", "", *(f"- {said}" for said in manifest.deviations), ""]
