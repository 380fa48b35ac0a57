"""Reads, checks and writes ``manifest.json``, the JSON form of ``modelzoo.v1.Manifest``.

`export` fills a manifest and writes it; `server` and `verify` read one and trust nothing in it that
was not checked here: every name is a plain file name, every file is the one that was published.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

from google.protobuf import json_format

from artifact import files, golden, layout
from artifact.errors import DamagedFileError, ManifestError
from artifact.fitting import resizing
from modelzoo.v1 import manifest_pb2

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # no separator, no leading dot: stays in its folder
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_MANIFEST_BYTES = 1 << 20  # those of the catalog have 8 kB; as parsed objects it takes some 60 times that
MAX_LABELS = 100_000  # ImageNet in full has 21,841
MAX_LABEL_CHARACTERS = 1_000  # the longest of ImageNet's have 121
MAX_LABELS_BYTES = 16 << 20
MAX_MODEL_FILE_BYTES = (1 << 31) - 1  # a protobuf message's own limit, and `File.size_bytes`'s
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # where `str.splitlines` splits
_Z_95 = NormalDist().inv_cdf(0.975)  # 1.96: 95 % of a normal distribution lie within as many deviations
MAX_SIDE_PX = 4096  # far above any classifier of the catalog (Inception v3: 299)


def read(folder: Path) -> manifest_pb2.Manifest:
    """Read and check the manifest of the artifact in ``folder``.

    The files that it names are not looked at; see `check_files`.

    Raises:
        ManifestError: the file is missing, too large or no JSON, holds an unknown field, a value is missing
            or out of range, or it describes another model or version than the folder's.
    """
    try:
        content = files.read(folder / layout.MANIFEST, MAX_MANIFEST_BYTES)
        manifest = json_format.Parse(content.decode("utf-8"), manifest_pb2.Manifest())
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{layout.MANIFEST} cannot be read: {files.reason(error)}") from error
    except RecursionError as error:
        raise ManifestError(f"{layout.MANIFEST} is not a manifest: nested too deeply") from error
    except (json_format.ParseError, ValueError) as error:
        raise ManifestError(f"{layout.MANIFEST} is not a manifest: {files.reason(error)}") from error
    check(manifest)
    if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
        raise ManifestError(
            f"{layout.MANIFEST} describes {manifest.name}/{manifest.version}, "
            f"but lies in {folder.parent.name}/{folder.name}"
        )
    return manifest


def write(manifest: manifest_pb2.Manifest, folder: Path) -> None:
    """Check a manifest and write it into ``folder``.

    Raises:
        ManifestError: a value is missing or out of range.
    """
    check(manifest)
    text = json_format.MessageToJson(
        manifest,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,  # seed 0 is a seed
        indent=2,
    )
    (folder / layout.MANIFEST).write_text(text + "\n", "utf-8")


def check(manifest: manifest_pb2.Manifest) -> None:
    """Check everything that a manifest can say wrong by itself.

    Raises:
        ManifestError: names the first problem.
    """
    for problem in _problems(manifest):
        raise ManifestError(f"{layout.MANIFEST}: {problem}")


def check_sizes(manifest: manifest_pb2.Manifest, folder: Path) -> int:
    """Compare the size of every file the manifest names; none is read.

    Returns:
        Bytes of all files together, as they are on disk.

    Raises:
        DamagedFileError: names the file.
    """
    total_bytes = 0
    for file in _files(manifest):
        try:
            found_bytes = files.size_bytes(folder / file.name)
        except OSError as error:
            raise DamagedFileError(f"{file.name} cannot be read: {files.reason(error)}") from error
        if found_bytes != file.size_bytes:
            raise DamagedFileError(
                f"{file.name} is not the file that was published: {found_bytes} bytes, "
                f"the manifest says {file.size_bytes}"
            )
        total_bytes += found_bytes
    return total_bytes


def check_files(manifest: manifest_pb2.Manifest, folder: Path) -> None:
    """Check that every file the manifest names is there and unchanged: all sizes first, then all hashes.

    Raises:
        DamagedFileError: names the file.
    """
    check_sizes(manifest, folder)
    for file in _files(manifest):
        try:
            found, _ = files.sha256(folder / file.name, file.size_bytes)
        except OSError as error:
            raise DamagedFileError(f"{file.name} cannot be read: {files.reason(error)}") from error
        if found != file.sha256:
            raise DamagedFileError(
                f"{file.name} is not the file that was published: sha256 {found[:12]}…, "
                f"the manifest says {file.sha256[:12]}…"
            )


def describe_file(path: Path, limit_bytes: int = MAX_MODEL_FILE_BYTES) -> manifest_pb2.File:
    """Hash and measure a file.

    Raises:
        OSError: the file cannot be read, is too large, or is something else than a file.
    """
    found, size_bytes = files.sha256(path, limit_bytes)
    return manifest_pb2.File(name=path.name, sha256=found, size_bytes=size_bytes)


def read_labels(manifest: manifest_pb2.Manifest, folder: Path) -> tuple[str, ...]:
    """Read the labels, in the order of the network's outputs.

    Raises:
        DamagedFileError: the file cannot be read, holds another number of labels than it should, or a label
            that is too long.
    """
    name = manifest.labels.name
    try:
        text = files.read(folder / name, MAX_LABELS_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{name} cannot be read: {files.reason(error)}") from error
    if sum(map(text.count, _LINE_ENDS)) > 2 * MAX_LABELS:  # a line end may be two characters
        raise DamagedFileError(f"{name} holds more than {MAX_LABELS:,} labels")
    labels = tuple(text.splitlines())
    if len(labels) != manifest.label_count:
        raise DamagedFileError(f"{name} holds {len(labels)} labels, the manifest says {manifest.label_count}")
    if (longest := max(map(len, labels))) > MAX_LABEL_CHARACTERS:
        raise DamagedFileError(
            f"{name} holds a label of {longest:,} characters, at most {MAX_LABEL_CHARACTERS:,} allowed"
        )
    return labels


def accuracy_ratio(precision: manifest_pb2.Precision) -> float | None:
    """Return the share of right answers of a checked manifest's precision; None where it was not measured."""
    accuracy = precision.accuracy
    return accuracy.correct / accuracy.images if precision.HasField("accuracy") else None


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of right answers.

    With ``p = correct / images``, ``n = images`` and ``z`` the 97.5 % quantile of the normal distribution:
    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)``. Other than ``p ± z √(p(1-p)/n)`` it holds for few
    images, and for all or none of them right; it never leaves 0..1.

    Args:
        correct: from 0 to ``images``.
        images: at least 1.

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the
    American Statistical Association 22, 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    ratio, weight = correct / images, _Z_95**2 / images
    centre = ratio + weight / 2
    spread = math.sqrt(ratio * (1 - ratio) * weight + weight**2 / 4)
    return max(0.0, (centre - spread) / (1 + weight)), min(1.0, (centre + spread) / (1 + weight))


def machine_text(machine: manifest_pb2.Machine) -> str:
    """Write what latencies were measured on: ``AMD EPYC, 2 threads``."""
    return f"{machine.processor}, {machine.threads} thread{'s' if machine.threads != 1 else ''}"


def _files(manifest: manifest_pb2.Manifest) -> Iterator[manifest_pb2.File]:
    yield manifest.labels
    yield manifest.golden
    for precision in manifest.precisions:
        yield precision.file


def _problems(manifest: manifest_pb2.Manifest) -> Iterator[str]:
    if not layout.MODEL_NAME.fullmatch(manifest.name):
        yield f"name {manifest.name!r} is not a model's name"
    if manifest.version < 1:
        yield "version is missing or below 1"
    if not manifest.architecture:
        yield "architecture is missing"
    if manifest.parameters < 1:
        yield "parameters is missing or below 1"
    if manifest.label_count < 2:
        yield "label_count is missing or below 2"
    yield from _provenance_problems(manifest)
    yield from _input_problems(manifest)
    yield from _precision_problems(manifest)
    yield from _file_problems(manifest)


def _file_problems(manifest: manifest_pb2.Manifest) -> Iterator[str]:
    if manifest.label_count > MAX_LABELS:
        yield f"label_count is {manifest.label_count}, at most {MAX_LABELS} allowed"
    networks = len(manifest.precisions)
    limits_bytes = (MAX_LABELS_BYTES, golden.MAX_FILE_BYTES, *(MAX_MODEL_FILE_BYTES,) * networks)
    for file, limit_bytes in zip(_files(manifest), limits_bytes, strict=True):
        if not _FILE_NAME.fullmatch(file.name):
            yield f"{file.name!r} is not a plain file name"
        if not _SHA256.fullmatch(file.sha256):
            yield f"the sha256 of {file.name!r} is not 64 hexadecimal digits"
        if not 1 <= file.size_bytes <= limit_bytes:
            yield f"the size_bytes of {file.name!r} is {file.size_bytes}, not in 1..{limit_bytes}"


def _provenance_problems(manifest: manifest_pb2.Manifest) -> Iterator[str]:
    if not manifest.reference:
        yield "reference is missing"
    if manifest.weights.origin == manifest_pb2.ORIGIN_UNSPECIFIED:
        yield "weights.origin is missing"
    if not 0 <= manifest.macs < math.inf:
        yield "macs is no count"


def _input_problems(manifest: manifest_pb2.Manifest) -> Iterator[str]:
    pixels = manifest.input
    for side, length_px in (("height", pixels.height), ("width", pixels.width)):
        if not 1 <= length_px <= MAX_SIDE_PX:
            yield f"input.{side} is not in 1..{MAX_SIDE_PX}"
    if pixels.channels not in (1, 3):
        yield "input.channels is neither 1 nor 3"
    if not len(pixels.mean) == len(pixels.std) == pixels.channels:
        yield "input.mean and input.std need one value per channel"
    if not all(math.isfinite(mean) for mean in pixels.mean):
        yield "input.mean holds a value that is no finite number"
    if not all(0 < std < math.inf for std in pixels.std):
        yield "input.std holds a value that is not above 0 and finite"
    if pixels.channel_order not in manifest_pb2.ChannelOrder.values():
        yield f"input.channel_order {pixels.channel_order} is unknown"
    if pixels.channel_order == manifest_pb2.CHANNEL_ORDER_BGR and pixels.channels != 3:
        yield "input.channel_order is BGR, but input.channels is not 3"
    yield from resizing.problems(manifest.preprocessing, pixels, MAX_SIDE_PX)


def _precision_problems(manifest: manifest_pb2.Manifest) -> Iterator[str]:
    names = [precision.name for precision in manifest.precisions]
    if not names or names[0] != "fp32":
        yield "precisions does not start with fp32"
    for name in names:
        if name not in layout.MODEL_FILES:
            yield f"precision {name!r} is unknown"
        if names.count(name) > 1:
            yield f"precision {name!r} is there twice"
    for precision in manifest.precisions:
        yield from _figure_problems(precision)


def _figure_problems(precision: manifest_pb2.Precision) -> Iterator[str]:
    if not 0 <= precision.accuracy.correct <= precision.accuracy.images:
        yield f"the accuracy of {precision.name!r} counts more right answers than images"
    if precision.HasField("accuracy") and not precision.accuracy.images:
        yield f"the accuracy of {precision.name!r} counts no image"
    if not all(latency.batch_size > 0 and latency.median_s > 0 for latency in precision.latencies):
        yield f"a latency of {precision.name!r} is no time of a batch"
    for tolerance in precision.tolerances:
        if not 0 < tolerance.max_abs_difference <= 1:  # of probabilities; above 1 all would pass
            yield (
                f"the tolerance of {precision.name!r} with {tolerance.provider!r} is "
                f"{tolerance.max_abs_difference:g}, not above 0 and at most 1"
            )
