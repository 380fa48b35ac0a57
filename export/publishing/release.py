"""From a candidate to a published artifact: write, prove, gate, measure, publish."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from artifact import execution, golden, layout, manifest, publish
from export.candidate import Candidate, ReleaseOptions
from export.data.datasets import Split
from export.errors import ExportError
from export.graph import macs, precision, probes, verification
from export.graph.tracing import GraphError
from export.graph.verification import Images, Probabilities
from export.publishing import card, gate, latency
from modelzoo.v1 import manifest_pb2

GOLDEN_IMAGES = 16
_PROVEN_IMAGES = 1000  # of a large held-out set; accuracy is measured on all of it
_CALIBRATION_IMAGES = 256
_MAX_PROOF_BYTES = golden.MAX_BYTES // 2  # of pictures that are made; the other half is for the answers
_LATENCY_BATCH_SIZES = (1, 2, 4, 8, 16)
_LATENCY_BUDGET_S = 3.0  # for all batch sizes of a precision
_ANSWER_BATCH = 32
# They write the artifact: their versions stand in the manifest.
_LIBRARIES = (
    "numpy", "onnx", "onnxruntime-gpu", "onnxscript", "pillow", "scikit-learn", "torch", "torchvision"
)  # fmt: skip


class NoPicturesError(ExportError):
    """A precision cannot be made or judged without pictures; the message says which."""


def release(candidate: Candidate, options: ReleaseOptions, step: Callable[[str], None]) -> Path:
    """Publish a candidate as the next version of its model, with `candidate.description` filled in.

    Nothing is published unless the fp32 file gives the reference's answers. Another precision that does
    not pass its gate is left out, and the manifest says why.

    Args:
        step: told what begins.

    Returns:
        The published folder.

    Raises:
        GraphError: the exported graph is not what an artifact may hold.
        GoldenError: ONNX Runtime and the reference disagree.
        NoPicturesError: int8 was asked for without pictures to calibrate it on.
        OSError: the repository cannot be written.
    """
    if "int8" in options.precisions and candidate.pictures is None:
        raise NoPicturesError("int8 needs pictures to be calibrated on: name a folder with --calibration")
    description = candidate.description
    with publish.staging(options.repository, description.name) as folder:
        return _Release(candidate, options, folder, step).publish()


class _Release:
    """One artifact on its way, in its staging folder."""

    def __init__(
        self, candidate: Candidate, options: ReleaseOptions, folder: Path, step: Callable[[str], None]
    ) -> None:
        self._candidate = candidate
        self._description = candidate.description
        self._options = options
        self._folder = folder
        self._step = step
        self._own: dict[str, Probabilities] = {}
        self._fp32: Probabilities | None = None  # answers to the pictures that gates look at

    def publish(self) -> Path:
        candidate, description, folder = self._candidate, self._description, self._folder
        self._step("exporting to ONNX")
        source = folder / layout.MODEL_FILES["fp32"]
        candidate.write(source)
        description.macs = _macs(source)
        self._step(f"comparing with {description.reference}")
        proof = _proof(candidate)
        if proof.expected.shape[1] != len(candidate.labels):
            raise GraphError(
                f"the network has {proof.expected.shape[1]} outputs, "
                f"but there are {len(candidate.labels)} labels"
            )
        answers = self._prove_fp32(source, proof)
        for name in ("fp16", "int8"):
            if name in self._options.precisions:
                self._step(f"making {name}")
                self._add(name, source, proof)
        self._step("measuring latencies")
        self._measure()
        self._step("publishing")
        (folder / layout.LABELS).write_text("".join(f"{label}\n" for label in candidate.labels), "utf-8")
        description.labels.CopyFrom(manifest.describe_file(folder / layout.LABELS))
        description.label_count = len(candidate.labels)
        shown = slice(GOLDEN_IMAGES)
        golden.write(
            folder / layout.GOLDEN,
            golden.Golden(
                proof.images[shown],
                proof.expected[shown],
                {name: own[shown] for name, own in self._own.items()},
            ),
        )
        description.golden.CopyFrom(manifest.describe_file(folder / layout.GOLDEN))
        description.tools.update({library: importlib.metadata.version(library) for library in _LIBRARIES})
        card.write(folder / layout.CARD, candidate, proof.images[0], answers)
        return publish.publish(folder, description)

    def _prove_fp32(self, path: Path, proof: "_Proof") -> Probabilities | None:
        """Hold the fp32 file against the reference; give its answers to the held-out pictures."""
        run = verification.open_on_cpu(path)
        allowed = golden.TOLERANCES["fp32"][golden.CPU_PROVIDER]
        parity = verification.parity(run, proof.images, proof.expected, allowed)
        described = self._describe("fp32", path, parity)
        answers = None
        if self._candidate.held_out is not None:
            answers = verification.in_batches(run, self._candidate.held_out.images, _ANSWER_BATCH)
            described.accuracy.CopyFrom(self._accuracy(answers, self._candidate.held_out))
        judged = self._judged()
        if judged is not None:
            self._fp32 = (
                answers if answers is not None else verification.in_batches(run, judged, _ANSWER_BATCH)
            )
        self._description.precisions.append(described)
        return answers

    def _add(self, name: str, source: Path, proof: "_Proof") -> None:
        """Make a precision, and keep it if its gate says so; else the manifest says why not."""
        path = self._folder / layout.MODEL_FILES[name]
        try:
            self._convert(name, source, path)
        except precision.PrecisionError as error:
            self._description.refusals.add(precision=name, reason=f"{name}: {error}")
            return
        run = verification.open_on_cpu(path)
        own = verification.in_batches(run, proof.images, _ANSWER_BATCH)
        described = self._describe(name, path, [verification.difference(proof.expected, own, _ANSWER_BATCH)])
        verdict = self._verdict(name, run, described)
        # An int8 file is held against its own answers; the others must be the reference's, gate or no gate.
        answers = self._against_the_reference(name, own if name == "int8" else proof.expected, own)
        described.ungated = answers.passed and not verdict.passed and self._options.ungated
        if not (answers.passed and (verdict.passed or described.ungated)):
            verdict = verdict if answers.passed else answers
            path.unlink()
            self._description.refusals.add(precision=name, reason=verdict.reason)
            return
        if name == "int8":
            self._own[name] = own
        self._description.precisions.append(described)

    def _convert(self, name: str, source: Path, path: Path) -> None:
        if name == "fp16":
            precision.to_fp16(source, path)
        else:
            calibration = self._calibration()
            precision.best_int8(source, path, calibration, self._judge(source, calibration))

    def _against_the_reference(self, name: str, wanted: Probabilities, own: Probabilities) -> gate.Verdict:
        """Return whether a server, which compares the golden answers again, would take the file."""
        shown, allowed = slice(GOLDEN_IMAGES), golden.TOLERANCES[name][golden.CPU_PROVIDER]
        found = golden.compare(wanted[shown], own[shown], allowed)
        return gate.Verdict(
            found.passed,
            f"{name}: probabilities differ from {self._description.reference}'s by up to "
            f"{found.max_abs_difference:.2g}; {allowed:g} allowed",
        )

    def _verdict(self, name: str, run: verification.Run, described: manifest_pb2.Precision) -> gate.Verdict:
        judged = self._judged()
        if judged is None or self._fp32 is None:
            return gate.Verdict(passed=False, reason=f"{name}: no pictures to judge it by")
        answers = verification.in_batches(run, judged, _ANSWER_BATCH)
        same = int((answers.argmax(axis=1) == self._fp32.argmax(axis=1)).sum())
        described.agreement.CopyFrom(manifest_pb2.Agreement(images=len(judged), same=same))
        held_out = self._candidate.held_out
        if held_out is None:
            return gate.by_agreement(name, same, len(judged))
        described.accuracy.CopyFrom(self._accuracy(answers, held_out))
        fp32 = self._description.precisions[0].accuracy
        return gate.by_accuracy(name, fp32.correct, described.accuracy.correct, fp32.images)

    def _judged(self) -> Images | None:
        """Return the pictures that gates look at."""
        held_out = self._candidate.held_out
        return held_out.images if held_out is not None else self._candidate.pictures

    def _judge(self, source: Path, calibration: Images) -> Callable[[Path], float]:
        """Make the judge of calibrations: right answers where labels are known, else fp32's."""
        chosen_on = self._candidate.chosen_on
        if chosen_on is not None:
            images, wanted = chosen_on.images, chosen_on.labels
        else:
            images = calibration
            answers = verification.in_batches(verification.open_on_cpu(source), images, _ANSWER_BATCH)
            wanted = answers.argmax(axis=1)

        def judge(path: Path) -> float:
            answers = verification.in_batches(verification.open_on_cpu(path), images, _ANSWER_BATCH)
            return float((answers.argmax(axis=1) == wanted).mean())

        return judge

    def _calibration(self) -> Images:
        pictures = self._candidate.pictures
        if pictures is None:
            raise NoPicturesError("there are no pictures to calibrate on. This is a bug.")
        chosen = np.random.default_rng(0).permutation(len(pictures))[:_CALIBRATION_IMAGES]
        return pictures[chosen]

    def _measure(self) -> None:
        """Measure how long each file takes, on this machine's CPU."""
        given = self._description.input
        shape = (given.height, given.width, given.channels)
        threads = execution.threads(self._description.macs, execution.core_count())
        for described in self._description.precisions:
            found = latency.measure(
                self._folder / described.file.name, shape, _LATENCY_BATCH_SIZES, threads, _LATENCY_BUDGET_S
            )
            described.latencies.extend(
                manifest_pb2.Latency(provider=one.provider, batch_size=one.batch_size, median_s=one.median_s)
                for one in found
            )
        self._description.machine.CopyFrom(
            manifest_pb2.Machine(processor=execution.processor(), threads=threads)
        )

    def _accuracy(self, answers: Probabilities, held_out: Split) -> manifest_pb2.Accuracy:
        images, correct = len(held_out.labels), int((answers.argmax(axis=1) == held_out.labels).sum())
        low_ratio, high_ratio = manifest.wilson_interval(correct, images)
        return manifest_pb2.Accuracy(
            split=self._candidate.held_out_name,
            images=images,
            correct=correct,
            low_ratio=low_ratio,
            high_ratio=high_ratio,
        )

    @staticmethod
    def _describe(name: str, path: Path, parity: list[manifest_pb2.Parity]) -> manifest_pb2.Precision:
        return manifest_pb2.Precision(
            name=name,
            file=manifest.describe_file(path),
            parity=parity,
            tolerances=[
                manifest_pb2.Tolerance(provider=provider, max_abs_difference=allowed)
                for provider, allowed in golden.TOLERANCES[name].items()
            ],
        )


def _macs(path: Path) -> int:
    """Count multiply-accumulates; 0 where an imported graph holds operators that are not counted."""
    try:
        return macs.count(path)
    except ValueError:
        return 0


class _Proof(NamedTuple):
    """What the files are held against.

    Attributes:
        images: uint8 ``[N, H, W, C]``; the first become the golden ones.
        expected: the reference's answers to them, ``[N, K]``.
    """

    images: Images
    expected: Probabilities


def _proof(candidate: Candidate) -> _Proof:
    """Choose the pictures that the files are held against the reference on, or make some."""
    if candidate.held_out is not None:
        images = candidate.held_out.images[:_PROVEN_IMAGES]
    elif candidate.pictures is not None:
        images = candidate.pictures[:GOLDEN_IMAGES]
    else:
        shape = candidate.description.input
        fitting = _MAX_PROOF_BYTES // (shape.height * shape.width * shape.channels)
        made = probes.pictures(shape.height, shape.width, shape.channels, max(1, min(probes.COUNT, fitting)))
        return _Proof(*probes.telling(candidate.answer, made, _ANSWER_BATCH))
    return _Proof(images, candidate.answer(images))
