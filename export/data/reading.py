"""Picture files of a dataset: found, looked at once each, and either used or passed over with a reason."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from artifact import headers, pictures
from artifact.errors import PictureError
from artifact.execution import core_count
from modelzoo.v1 import manifest_pb2

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Read in training alone; of an animation, the first frame.
_OTHER_FORMATS = ("BMP", "GIF", "TIFF")
_WHITE = (255, 255, 255)
_THUMBNAIL_PX = 16
_LEFT = "hidden, or left by a system"
_JUNK = frozenset(
    {
        *("__MACOSX", "Thumbs.db", "desktop.ini", "__pycache__"),
        *("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    }
)


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
        """Those that are named like pictures, with the reasons; without what systems leave."""
        return {
            path: why
            for path, why in self.passed_over.items()
            if path.suffix.lower() in SUFFIXES and why != _LEFT
        }

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
        for path in _files(folder):
            if is_junk(path.relative_to(folder)):
                passed_over[path] = _LEFT
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
        for path in _files(folder)
        if path.suffix.lower() in SUFFIXES and not is_junk(path.relative_to(folder))
    ]


def spread(paths: Sequence[Path], limit: int) -> Sequence[Path]:
    """Return some of the paths, spread evenly over all."""
    return paths[:: -(-len(paths) // limit)] if paths else paths


def is_junk(path: Path) -> bool:
    """Return whether a path, from its label on, is hidden, or is what systems and archivers leave."""
    return any(part.startswith(".") or part in _JUNK for part in path.parts)


def _files(folder: Path) -> list[Path]:
    """List the regular files under a folder, in order; links to folders are not followed.

    Raises:
        OSError: the folder, or one below it, cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # what is not there, or no longer, holds nothing
            raise error

    walked = os.walk(folder, onerror=refuse)
    return sorted(path for here, _, names in walked for name in names if (path := Path(here, name)).is_file())


def fit(
    encoded: bytes, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing
) -> npt.NDArray[np.uint8]:
    """Decode a picture and fit it to a network's input, uint8 ``[H, W, C]``, as the server does.

    Formats that the server does not read become the pixels that it would have been sent.

    Raises:
        PictureError: it cannot be used; the message says why.
    """
    if headers.is_known(encoded):
        return pictures.decode(encoded, shape, preprocessing)
    mode = "L" if shape.channels == 1 else "RGB"
    image, _ = _other(encoded, mode, pictures.background_of(preprocessing))
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

    What is transparent is white: icons that are drawn in their alpha channel alone would all be black.

    Returns:
        The picture, its own shorter side in pixels, and whether it has no colours.

    Raises:
        PictureError: it cannot be used.
        MemoryError: there is no room for its pixels.
    """
    if not headers.is_known(encoded):
        image, is_grey = _other(encoded, "RGB", _WHITE)
        return image, min(image.size), is_grey
    header = pictures.check(encoded)
    image = pictures.pillow(encoded, header, "RGB", pictures.divisor(header, 4 * _THUMBNAIL_PX), _WHITE)
    if header.is_jpeg:
        is_grey = len(header.sampling) == 1
    else:
        with Image.open(io.BytesIO(encoded), formats=(header.kind,)) as opened:  # which was just decoded
            is_grey = _is_grey(opened)
    return image, min(header.size), is_grey


def _is_grey(image: Image.Image) -> bool:
    return image.mode in {"1", "L", "LA"} or image.mode.startswith("I")


def _other(encoded: bytes, mode: str, background: pictures.Colour | None) -> tuple[Image.Image, bool]:
    """Decode a picture of a format that only training reads, upright.

    Returns:
        The picture in a mode of Pillow's, and whether it has no colours.

    Raises:
        PictureError: it is none, is damaged, or larger than the server takes.
    """
    most_px = pictures.Limits().max_pixels
    try:
        with Image.open(io.BytesIO(encoded), formats=_OTHER_FORMATS) as opened:
            if opened.width * opened.height > most_px:
                raise PictureError(f"{opened.width} x {opened.height} pixels are more than {most_px:,}")
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            return pictures.in_mode(upright, mode, background), _is_grey(upright)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("too large to be decoded in the memory that is left") from error
    except Exception as error:  # Pillow raises what it likes
        raise PictureError("none of JPEG, PNG, WebP, BMP, GIF and TIFF, or damaged") from error
