"""The golden answers, and the one comparison with them.

`export` writes a few inputs with the reference's answers (PyTorch's, or ONNX Runtime's for an imported
graph); `server`, `verify` and `export` hold what a session answers against them, here and nowhere else.
"""

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from artifact import files
from artifact.errors import GoldenError

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

# At which `export` and `verify` hold an artifact against PyTorch. Two is what the graph is exported with.
BATCH_SIZES = (1, 2, 3, 7, 32)
MAX_BYTES = 256 << 20  # of all arrays, inflated; `export` keeps 16 images, of 224 x 224 pixels 2.4 MB
MAX_FILE_BYTES = MAX_BYTES + (1 << 20)  # what does not deflate grows by less
_MAX_ARRAYS = 8  # images, the reference's answers, and those of a few precisions
_MAX_DIRECTORY_BYTES = 4096  # some 60 an array
_MAX_HEADER_BYTES = 1024  # of an array; NumPy writes 128
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python inflates others without a bound
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
        """Return the answers that a file of a precision is held against, float32 ``[N, K]``."""
        return self.own.get(precision, self.probabilities)


@dataclass(frozen=True)
class Comparison:
    """How far answers are from the expected ones.

    Attributes:
        images: images compared.
        max_abs_difference: of a probability; NaN where an answer is NaN.
        top1_agreements: images with the same most probable label.
        top1_flips: images with another label although the expected margin between first and second
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
        """Return whether every difference is within the tolerance and no label flipped."""
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
    """Write a golden file.

    Raises:
        GoldenError: it would be larger than `read` takes.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"images": golden.images, "probabilities": golden.probabilities}
    arrays |= {f"{_OWN}{precision}": answers for precision, answers in golden.own.items()}
    if (total_bytes := sum(array.nbytes for array in arrays.values())) > MAX_BYTES:
        raise GoldenError(f"golden arrays of {total_bytes} bytes, at most {MAX_BYTES} allowed")
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read(
    path: Path, image_shape: tuple[int, int, int] | None = None, label_count: int | None = None
) -> Golden:
    """Read a golden file; what it declares is checked before anything is inflated.

    Args:
        image_shape: ``(H, W, C)`` that its images must have; None takes any.
        label_count: K that its answers must have; None takes any.

    Raises:
        GoldenError: it cannot be read, is too large, or does not hold images with as many answers.
    """
    try:
        with files.open_regular(path) as stream:
            _require_small_directory(stream)
            with zipfile.ZipFile(stream) as archive:
                declared = _declared(archive, path.name)
                _check(declared, path.name, image_shape, label_count)
                arrays = {name: _array(archive, name) for name in declared}
    except GoldenError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise GoldenError(f"{path.name} cannot be read: {files.reason(error)}") from error
    own = {name[len(_OWN) :]: arrays[name] for name in arrays if name.startswith(_OWN)}
    return Golden(arrays["images"], arrays["probabilities"], own)


def _require_small_directory(stream: BinaryIO) -> None:
    """Require a zip file with a small directory, before zipfile makes an object of every entry.

    Raises:
        ValueError: it is larger, or no zip file as NumPy writes it.
    """
    end = zipfile.sizeEndCentDir  # type: ignore[attr-defined] # of the record that ends the file, without comment
    size = stream.seek(0, os.SEEK_END)
    if not end <= size <= MAX_FILE_BYTES:
        raise ValueError(f"{size} bytes, not in {end}..{MAX_FILE_BYTES}")
    stream.seek(size - end)
    record = stream.read(end)
    entries, directory_bytes = (int.from_bytes(record[at : at + n], "little") for at, n in ((10, 2), (12, 4)))
    if record[:4] != b"PK\5\6":
        raise ValueError("not a zip file, or one with a comment")
    stream.seek(max(0, size - end - 20))
    if stream.read(4) == b"PK\6\7":  # a 64-bit directory, which would count instead
        raise ValueError("a zip file of more than 4 GiB")
    if entries > _MAX_ARRAYS or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise ValueError(f"{entries} arrays, at most {_MAX_ARRAYS} allowed")
    stream.seek(0)


Declared = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def _declared(archive: zipfile.ZipFile, file_name: str) -> Declared:
    """Return shape and type of every array that counts, from the arrays' headers.

    Raises:
        GoldenError: an array is not as large as its header and the directory say, or all are too large.
    """
    declared: Declared = {}
    total_bytes = 0
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name not in ("images", "probabilities") and not name.startswith(_OWN):
            continue
        if name in declared or entry.compress_type not in _METHODS:
            raise GoldenError(f"{file_name} holds {name[:40]!r} twice, or compressed by other than deflate")
        with archive.open(entry) as stream:
            shape, dtype = _header(stream)
            header_bytes = stream.tell()
        array_bytes = math.prod(shape) * dtype.itemsize
        total_bytes += array_bytes
        if total_bytes > MAX_BYTES:
            raise GoldenError(
                f"{file_name} declares arrays of {total_bytes} bytes, at most {MAX_BYTES} allowed"
            )
        if entry.file_size != header_bytes + array_bytes:
            raise GoldenError(f"{file_name}: {name[:40]!r} is not as large as its shape {shape} says")
        declared[name] = shape, dtype
    return declared


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read an array's header.

    Raises:
        ValueError: it is none, or of an array that would have to be unpickled.
    """
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"arrays of version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject:
        raise ValueError("pickled objects, which are never read")
    if fortran or any(side < 0 for side in shape):
        raise ValueError("an array that is not stored row by row")
    return shape, dtype


def _check(
    declared: Declared,
    file_name: str,
    image_shape: tuple[int, int, int] | None,
    label_count: int | None,
) -> None:
    """Check what a file declares to hold.

    Raises:
        GoldenError: it is something else than images with as many answers, or does not fit the manifest.
    """
    if missing := {"images", "probabilities"} - declared.keys():
        raise GoldenError(f"{file_name} cannot be read: it holds no {' and no '.join(sorted(missing))}")
    images, image_type = declared["images"]
    probabilities, answer_type = declared["probabilities"]
    if image_type != np.uint8 or len(images) != 4 or answer_type != np.float32:
        raise GoldenError(f"{file_name} does not hold uint8 [N, H, W, C] images and float32 probabilities")
    if len(probabilities) != 2 or not 0 < images[0] == probabilities[0]:
        raise GoldenError(f"{file_name} does not hold one row of probabilities per image")
    if any(declared[name] != (probabilities, answer_type) for name in declared if name.startswith(_OWN)):
        raise GoldenError(f"{file_name} does not hold a precision's answers as it does the reference's")
    if image_shape not in (None, images[1:]) or label_count not in (None, probabilities[1]):
        raise GoldenError(f"{file_name} does not fit the manifest's input and labels")


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Inflate one array after the check of its header; zipfile compares its checksum."""
    with archive.open(f"{name}.npy") as stream:
        shape, dtype = _header(stream)
        content = stream.read()
    return np.frombuffer(content, dtype).reshape(shape)
