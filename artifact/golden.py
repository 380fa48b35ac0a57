"""The golden answers, and the one comparison with them.

`export` writes a few inputs with the reference's answers (PyTorch's, or ONNX Runtime's for an imported
graph); `server`, `verify` and `export` hold what a session answers against them, here and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from artifact.errors import GoldenError

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

# At which `export` and `verify` hold an artifact against PyTorch. Two is what the graph is exported with.
BATCH_SIZES = (1, 2, 3, 7, 32)
_OWN = "probabilities_"  # begins the name of a precision's own answers in the file

# Largest absolute difference of a probability, by precision and provider. TF32 rounds fp32 convolutions
# on CUDA to a 10-bit mantissa; int8 also differs between CPUs with and without VNNI.
TOLERANCES: dict[str, dict[str, float]] = {
    "fp32": {CPU_PROVIDER: 1e-5, CUDA_PROVIDER: 5e-3},
    "fp16": {CPU_PROVIDER: 1e-2, CUDA_PROVIDER: 1e-2},
    "int8": {CPU_PROVIDER: 5e-2},
}


@dataclass(frozen=True)
class Golden:
    """Inputs, the reference's answers, and those of files that need not give quite the same.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        probabilities: the reference's, float32 ``[N, K]``.
        own: the published file's, float32 ``[N, K]``, by precision. An int8 file may differ from the
            reference wherever its accuracy allows it; what it answers must still be what was measured.
    """

    images: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
    own: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def expected(self, precision: str) -> npt.NDArray[np.float32]:
        """Give the answers that a file of a precision is held against, float32 ``[N, K]``."""
        return self.own.get(precision, self.probabilities)


@dataclass(frozen=True)
class Comparison:
    """How far answers are from the expected ones.

    Attributes:
        images: images compared.
        max_abs_difference: of a probability; NaN where an answer is NaN.
        top1_agreements: images whose most probable label is the same.
        top1_flips: images whose label differs although the expected margin between first and second
            is more than twice the tolerance, so that no rounding excuses it. A single label has no
            second, and cannot differ.
        tolerance: largest difference that is allowed.
    """

    images: int
    max_abs_difference: float
    top1_agreements: int
    top1_flips: int
    tolerance: float

    @property
    def passed(self) -> bool:
        """Tell whether every difference is within the tolerance and no label flipped."""
        return self.max_abs_difference <= self.tolerance and self.top1_flips == 0  # False for NaN

    def require(self, what: str) -> None:
        """Insist that the comparison passed.

        Raises:
            GoldenError: it did not; says by how much, about ``what``.
        """
        if not self.passed:
            raise GoldenError(
                f"{what}: answers differ from the reference's by up to {self.max_abs_difference:.2g} "
                f"(allowed {self.tolerance:.2g}), {self.top1_flips} of {self.images} labels changed"
            )


def compare(expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32], tolerance: float) -> Comparison:
    """Compare probabilities ``[N, K]`` with the expected ones.

    Raises:
        GoldenError: the shapes differ, or there is nothing to compare.
    """
    if expected.shape != got.shape or expected.size == 0:
        raise GoldenError(f"expected probabilities of shape {expected.shape}, got {got.shape}")
    same = expected.argmax(axis=1) == got.argmax(axis=1)  # [N]
    ranked = np.sort(expected, axis=1)[:, -2:]  # [N, 2], or [N, 1] of a single label
    margin = ranked[:, -1] - ranked[:, 0]  # [N]
    return Comparison(
        images=len(expected),
        max_abs_difference=float(np.abs(expected - got).max()),
        top1_agreements=int(same.sum()),
        top1_flips=int((~same & (margin > 2 * tolerance)).sum()),
        tolerance=tolerance,
    )


def write(path: Path, golden: Golden) -> None:
    """Write a golden file."""
    arrays: dict[str, npt.NDArray[Any]] = {"images": golden.images, "probabilities": golden.probabilities}
    arrays |= {f"{_OWN}{precision}": answers for precision, answers in golden.own.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read(path: Path) -> Golden:
    """Read a golden file.

    Raises:
        GoldenError: it cannot be read, or does not hold images with as many answers.
    """
    try:
        # Opened here, because NumPy leaves a file that it cannot read open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            images, probabilities = np.asarray(arrays["images"]), np.asarray(arrays["probabilities"])
            own = {name[len(_OWN) :]: np.asarray(arrays[name]) for name in arrays if name.startswith(_OWN)}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise GoldenError(f"{path.name} cannot be read: {str(error) or type(error).__name__}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or probabilities.dtype != np.float32:
        raise GoldenError(f"{path.name} does not hold uint8 [N, H, W, C] images and float32 probabilities")
    if probabilities.ndim != 2 or not 0 < len(images) == len(probabilities):
        raise GoldenError(f"{path.name} does not hold one row of probabilities per image")
    if any(answers.dtype != np.float32 or answers.shape != probabilities.shape for answers in own.values()):
        raise GoldenError(f"{path.name} does not hold a precision's answers as it does the reference's")
    return Golden(images, probabilities, own)
