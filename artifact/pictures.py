"""From encoded pictures to the network's pixels: the one preprocessing.

Training, export and server all come through here, so a picture becomes the same pixels everywhere. The
header is read first, and decides whether the rest is worth decoding.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2

Pixels = npt.NDArray[np.uint8]
# Decodes a file that was measured: the file, Pillow's name of the mode that is wanted (`L` or `RGB`), and the
# divisor of its size. Gives an upright picture; raises PictureError or MemoryError.
Codec = Callable[[bytes, str, int], Image.Image]

Image.preinit()  # registers the codecs now, rather than while the first picture waits (20 ms)
# Pillow warns of what it repairs, odd EXIF say, in words from the file, and Python keeps every one of them.
warnings.filterwarnings("ignore", module=r"PIL\.")

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE_OFFSET = 16  # after the magic, the length and the name of the IHDR chunk
_JPEG_MAGIC = b"\xff\xd8\xff"
# What begins a segment, or ends the picture. The others have no payload, or libjpeg skips none: escaped
# 0xff of the entropy-coded data (0x00), what is not defined (below 0xc0), RST0..7, SOI (0xd8), fill bytes.
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 but DHT, JPG, DAC
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_DIVISORS = (8, 4, 2)  # of the size that a JPEG's coefficients give at once

_USUAL_SCANS = 10  # of a progressive JPEG as encoders write it

_NARROW = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)  # 16-bit grey to 8-bit, rounded
_MODES = {1: "L", 3: "RGB"}
_UPRIGHT = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {
    manifest_pb2.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Limits:
    """What a picture may cost before it is refused.

    Attributes:
        max_pixels: width times height, of the file and again after resizing. 40 million is a 24 x 36 mm
            camera's frame; as RGB it takes 160 MB while it is decoded, and as much again to be turned.
        max_scans: of a progressive JPEG. Sane files have under 20; thousands of empty ones make a small
            file cost minutes.
    """

    max_pixels: int = 40_000_000
    max_scans: int = 100


def decode(
    encoded: bytes,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    limits: Limits = Limits(),
    codec: Codec | None = None,
) -> Pixels:
    """Decode a JPEG or PNG file and fit it to a network's input.

    The picture is turned upright (EXIF) and made grey or RGB; transparency is dropped, 16-bit grey is
    scaled by 1/257.

    Args:
        codec: another than `pillow`, which must give the same pixels.

    Returns:
        uint8 ``[H, W, C]``, contiguous.

    Raises:
        PictureError: neither a JPEG nor a PNG, damaged, truncated, beyond the limits, or too large for
            the memory that is left. Pillow's own words are in the cause alone.
    """
    measure(encoded, limits)
    divisor = _divisor(encoded, preprocessing)
    try:
        image = (codec or pillow)(encoded, _MODES[shape.channels], divisor)
        return _fit(image, shape, preprocessing, limits)
    except MemoryError as error:
        raise PictureError("too large to be decoded in the memory that is left") from error


def measure(encoded: bytes, limits: Limits = Limits()) -> int:
    """Tell what decoding a picture will cost, in pixels, without decoding it.

    That is its width times its height, and for a JPEG of many scans, each of which goes over the
    picture again, a multiple of it.

    Raises:
        PictureError: neither a JPEG nor a PNG, without a size, or beyond the limits.
    """
    width_px, height_px = _size(encoded)
    if width_px * height_px > limits.max_pixels:
        raise PictureError(f"{width_px} x {height_px} pixels are more than the {limits.max_pixels:,} allowed")
    scans = _jpeg_scans(encoded) if is_jpeg(encoded) else 1
    if scans > limits.max_scans:
        raise PictureError(f"{scans} progressive scans are more than the {limits.max_scans} allowed")
    return width_px * height_px * max(1, scans // _USUAL_SCANS)


def fit(
    pixels: Pixels,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    limits: Limits = Limits(),
) -> Pixels:
    """Fit decoded pixels, uint8 ``[h, w, C]``, to a network's input, as `decode` does.

    Returns:
        uint8 ``[H, W, C]``, contiguous.

    Raises:
        PictureError: beyond the limits.
    """
    image = Image.fromarray(pixels[:, :, 0] if shape.channels == 1 else pixels)
    return _fit(image, shape, preprocessing, limits)


def _fit(
    image: Image.Image,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    limits: Limits,
) -> Pixels:
    """Resize the shorter side, keep the centre. Rounds as torchvision's Resize and CenterCrop do."""
    shorter_px = preprocessing.resize_shorter_px
    width_px, height_px = image.size
    if width_px <= height_px:
        size = (shorter_px, int(shorter_px * height_px / width_px))
    else:
        size = (int(shorter_px * width_px / height_px), shorter_px)
    if size[0] * size[1] > limits.max_pixels:
        raise PictureError(f"{width_px} x {height_px} pixels are too narrow a strip to resize")
    if size != image.size:
        image = image.resize(size, _FILTERS[preprocessing.interpolation])
    left = round((size[0] - shape.width) / 2.0)
    top = round((size[1] - shape.height) / 2.0)
    image = image.crop((left, top, left + shape.width, top + shape.height))
    return np.asarray(image, np.uint8).reshape(shape.height, shape.width, shape.channels)


def pillow(encoded: bytes, mode: str, divisor: int) -> Image.Image:
    """Decode a picture that was measured; the `Codec` that others are held against.

    Raises:
        PictureError: damaged or truncated.
        MemoryError: there is no room for its pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as opened:
            if opened.size != _size(encoded):  # else a second header would pass unmeasured
                raise PictureError("damaged or truncated: the headers give several sizes")
            if divisor > 1:
                opened.draft(None, (opened.width // divisor, opened.height // divisor))
            return in_mode(_upright(opened), mode)
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError("damaged or truncated: no picture follows the header") from error
    # Pillow raises what it likes, in words that quote the file or our memory: none of them goes on.
    except Exception as error:
        raise PictureError("damaged or truncated: what follows the header cannot be decoded") from error


def turned(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """Turn a picture as its EXIF says."""
    turn = _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _divisor(encoded: bytes, preprocessing: manifest_pb2.Preprocessing) -> int:
    """Tell by how much smaller a file may be decoded than it is."""
    if not (preprocessing.scaled_decoding and is_jpeg(encoded)):
        return 1
    needed = 2 * preprocessing.resize_shorter_px
    return next((by for by in _JPEG_DIVISORS if min(_size(encoded)) // by >= needed), 1)


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # while the file is open; a PNG may say its orientation after its pixels
    return turned(image, image.getexif())


def is_jpeg(encoded: bytes) -> bool:
    """Tell a JPEG file by how it begins."""
    return encoded.startswith(_JPEG_MAGIC)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Make a picture grey or RGB; ``mode`` is Pillow's name of that."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it at 255
        image = Image.fromarray(_NARROW[np.asarray(image, np.uint16)])  # [H, W]
    image.info.pop("transparency", None)  # dropped, and not converted too
    return image if image.mode == mode else image.convert(mode)


def _size(encoded: bytes) -> tuple[int, int]:
    """Read (width, height) in pixels from the header alone.

    Raises:
        PictureError: not the header of a JPEG or PNG.
    """
    if not encoded:
        raise PictureError("empty")
    size = None
    if encoded.startswith(_PNG_MAGIC):
        size = _png_size(encoded)
    elif is_jpeg(encoded):
        size = _jpeg_size(encoded)
    else:
        raise PictureError("neither a JPEG nor a PNG file")
    if size is None or 0 in size:
        raise PictureError("damaged or truncated: the header gives no size")
    return size


def _png_size(encoded: bytes) -> tuple[int, int] | None:
    sides = encoded[_PNG_SIZE_OFFSET : _PNG_SIZE_OFFSET + 8]
    if len(sides) < 8:
        return None
    return int.from_bytes(sides[:4], "big"), int.from_bytes(sides[4:], "big")


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    for marker, position in _jpeg_segments(encoded):
        if marker in _JPEG_FRAMES:  # length (2 bytes), precision (1), height (2), width (2)
            sides = encoded[position + 3 : position + 7]
            if len(sides) < 4:
                return None
            return int.from_bytes(sides[2:], "big"), int.from_bytes(sides[:2], "big")
    return None


def _jpeg_scans(encoded: bytes) -> int:
    return sum(marker == _JPEG_SCAN for marker, _ in _jpeg_segments(encoded))


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Walk as libjpeg does, up to the end of the picture; what follows it (a film, say) is not looked at.

    Whatever libjpeg would take for a scan must come up here, or scans could hide from being counted.

    Yields:
        A segment's marker, and where its length (2 bytes that count themselves) and payload begin.
    """
    position = 2  # after SOI
    while found := _JPEG_MARKER.search(encoded, position):
        marker, position = found[1][0], found.end()
        if marker == _JPEG_END:
            return
        yield marker, position
        position += int.from_bytes(encoded[position : position + 2], "big")
