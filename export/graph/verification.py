"""The proof: an exported file answers as PyTorch does, at batch sizes it was not exported with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artifact import golden
from artifact.errors import GoldenError
from export import session
from export.graph.tracing import INPUT, OUTPUT
from modelzoo.v1 import manifest_pb2

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
Run = Callable[[Images], Probabilities]


def open_on_cpu(path: Path) -> Run:
    """Open an ONNX file with ONNX Runtime's CPU provider.

    Returns:
        A function from uint8 ``[N, H, W, C]`` to float32 ``[N, K]``.
    """
    opened = session.on_cpu(path)

    def run(images: Images) -> Probabilities:
        probabilities: Probabilities = opened.run([OUTPUT], {INPUT: images})[0]
        return probabilities

    return run


def in_batches(run: Run, images: Images, batch_size: int) -> Probabilities:
    """Answer all images, ``batch_size`` at a time; the last batch may be smaller."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([run(images[start : start + batch_size]) for start in starts])  # [N, K]


def parity(run: Run, images: Images, expected: Probabilities, tolerance: float) -> list[manifest_pb2.Parity]:
    """Hold the answers at every batch size that there are images for against the reference's, on the CPU.

    Stricter than the golden comparison: every single label must be the reference's.

    Raises:
        GoldenError: a difference beyond ``tolerance``, or another label.
    """
    found = []
    for batch_size in (size for size in golden.BATCH_SIZES if size <= len(images)):
        comparison = golden.compare(expected, in_batches(run, images, batch_size), tolerance)
        comparison.require(f"batch size {batch_size}")
        if comparison.top1_agreements != comparison.images:
            changed = comparison.images - comparison.top1_agreements
            raise GoldenError(
                f"batch size {batch_size}: {changed} of {comparison.images} labels are not the reference's"
            )
        found.append(_described(comparison, batch_size))
    return found


def difference(expected: Probabilities, got: Probabilities, batch_size: int) -> manifest_pb2.Parity:
    """Measure how far answers are from the reference's, whatever it comes to.

    Raises:
        GoldenError: the shapes differ.
    """
    return _described(golden.compare(expected, got, tolerance=1), batch_size)


def _described(comparison: golden.Comparison, batch_size: int) -> manifest_pb2.Parity:
    return manifest_pb2.Parity(
        provider=golden.CPU_PROVIDER,
        batch_size=batch_size,
        images=comparison.images,
        max_abs_difference=comparison.max_abs_difference,
        top1_agreements=comparison.top1_agreements,
    )
