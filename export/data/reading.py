"""Picture files of a dataset: found, looked at once each, and either used or passed over with a reason."""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from artifact import pictures
from artifact.errors import PictureError
from artifact.execution import core_count
from modelzoo.v1 import manifest_pb2

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Read in training alone; of an animation, the first frame.
_OTHER_FORMATS = ("BMP", "GIF", "TIFF")
_SERVED_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
_THUMBNAIL_PX = 16
_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Picture:
    """A picture file that can be used.

    Attributes:
        label: its index.
        shorter_px: its shorter side.
        is_grey: whether it has no colour channels.
        digest: of its bytes.
        thumbnail: the whole picture, uint8 ``[16, 16, 3]``.
    """

    path: Path
    label: int
    shorter_px: int
    is_grey: bool
    digest: bytes
    thumbnail: npt.NDArray[np.uint8] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Found:
    """What became of the files under some folders.

    Attributes:
        used: in the order of their labels and paths.
        passed_over: reasons by file.
    """

    used: Sequence[Picture]
    passed_over: Mapping[Path, str]

    @property
    def unusable(self) -> dict[Path, str]:
        """Those that are named like pictures, with the reasons."""
        return {path: why for path, why in self.passed_over.items() if path.suffix.lower() in SUFFIXES}

    def report(self) -> str:
        """Say in one line how many files are used, how many not, and why, with an example each."""
        total = f"{len(self.used):,} pictures used"
        if not self.passed_over:
            return total
        counts = Counter(self.passed_over.values())
        examples: dict[str, Path] = {}
        for path, reason in self.passed_over.items():
            examples.setdefault(reason, path)
        reasons = "; ".join(
            f"{count:,} {reason}, {examples[reason].name} for one" for reason, count in counts.most_common()
        )
        return f"{total}, {len(self.passed_over):,} files passed over: {reasons}"


def read(folders: Iterable[tuple[Path, int]]) -> Found:
    """Look at every file under some folders, each with the index of its label.

    Raises:
        OSError: a folder cannot be read.
    """
    used: list[Picture] = []
    passed_over: dict[Path, str] = {}
    candidates: list[tuple[Path, int]] = []
    for folder, label in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if _is_junk(path.relative_to(folder)):
                passed_over[path] = "hidden, or left by a system"
            elif path.suffix.lower() not in SUFFIXES:
                passed_over[path] = "not named like pictures"
            else:
                candidates.append((path, label))
    with ThreadPoolExecutor(core_count()) as pool:
        for (path, _), seen in zip(candidates, pool.map(_look, candidates), strict=True):
            if isinstance(seen, Picture):
                used.append(seen)
            else:
                passed_over[path] = seen
    return Found(used, passed_over)


def named_like_pictures(folder: Path) -> list[Path]:
    """List the files under a folder that are named like pictures, but for hidden ones; in order.

    Raises:
        OSError: the folder cannot be read.
    """
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _is_junk(path.relative_to(folder))
    ]


def _is_junk(path: Path) -> bool:
    return any(part.startswith(".") or part in _JUNK for part in path.parts)


def fit(
    encoded: bytes, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> npt.NDArray[np.uint8]:
    """Decode a picture and fit it to a network's input, uint8 ``[H, W, C]``, as the server does.

    Formats that the server does not read become the pixels that it would have been sent.

    Raises:
        PictureError: it cannot be used; the message says why.
    """
    if encoded.startswith(_SERVED_MAGIC):
        return pictures.decode(encoded, shape, preprocessing)
    mode = "L" if shape.channels == 1 else "RGB"
    image = pictures.in_mode(_other(encoded), mode, pictures.background_of(preprocessing))
    pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, shape.channels)
    return pictures.fit(pixels, shape, preprocessing)


def _look(candidate: tuple[Path, int]) -> Picture | str:
    """Decode a picture at a part of its size; return why it is passed over where it cannot be used."""
    path, label = candidate
    try:
        encoded = path.read_bytes()
    except OSError as error:
        return f"not readable ({error.strerror})"
    if not encoded:
        return "empty"
    try:
        image, shorter_px, is_grey = _small(encoded)
    except PictureError as error:
        return f"not usable ({error})"
    except MemoryError:
        return "too large for the memory that is left"
    thumbnail = image.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    digest = hashlib.sha256(encoded).digest()
    return Picture(path, label, shorter_px, is_grey, digest, np.asarray(thumbnail))


def _small(encoded: bytes) -> tuple[Image.Image, int, bool]:
    """Decode a picture in RGB, at some times the size of a thumbnail where the format allows it.

    Returns:
        The picture, its own shorter side in pixels, and whether it has no colours.

    Raises:
        PictureError: it cannot be used.
    """
    if not encoded.startswith(_SERVED_MAGIC):
        image = _other(encoded)
        return pictures.in_mode(image, "RGB"), min(image.size), _is_grey(image)
    header = pictures.check(encoded)
    shorter_px = min(header.size)
    divisor = next((by for by in (8, 4, 2) if header.is_jpeg and shorter_px // by >= 4 * _THUMBNAIL_PX), 1)
    image = pictures.pillow(encoded, header, "RGB", divisor)
    with Image.open(io.BytesIO(encoded), formats=(header.kind,)) as opened:  # which has just been decoded
        return image, shorter_px, _is_grey(opened)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in {"1", "L", "LA"} or image.mode.startswith("I")


def _other(encoded: bytes) -> Image.Image:
    """Decode a picture of a format that only training reads, upright.

    Raises:
        PictureError: it is none, is damaged, or larger than the server takes.
    """
    most_px = pictures.Limits().max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures beyond Pillow's own bound, which is larger
            opened = Image.open(io.BytesIO(encoded), formats=_OTHER_FORMATS)
        with opened:
            if opened.width * opened.height > most_px:
                raise PictureError(f"{opened.width} x {opened.height} pixels are more than {most_px:,}")
            opened.load()
            return ImageOps.exif_transpose(opened)
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # Pillow raises what it likes
        raise PictureError("none of JPEG, PNG, WebP, BMP, GIF and TIFF, or damaged") from error
