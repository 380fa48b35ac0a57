"""From encoded pictures to the network's pixels: the one preprocessing.

Training, export and server all come through here, so a picture becomes the same pixels everywhere. The
header is read first, and decides whether the rest is worth decoding.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2

Pixels = npt.NDArray[np.uint8]

Image.preinit()  # registers the codecs now, rather than while the first picture waits (20 ms)

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE_OFFSET = 16  # after the magic, the length and the name of the IHDR chunk
_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_SCAN = b"\xff\xda"  # "start of scan"; inside entropy-coded data 0xff is always escaped
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 but DHT, JPG, DAC
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length: TEM, RST0..7, SOI

_MODES = {1: "L", 3: "RGB"}
_FILTERS = {
    manifest_pb2.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Limits:
    """What a picture may cost before it is refused.

    Attributes:
        max_pixels: width times height, of the file and again after resizing. 40 million is a 24 x 36 mm
            camera's frame; decoded it takes 160 MB.
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
) -> Pixels:
    """Decode a JPEG or PNG file and fit it to a network's input.

    The picture is turned upright (EXIF) and made grey or RGB; transparency is dropped, 16-bit grey is
    scaled by 1/257.

    Returns:
        uint8 ``[H, W, C]``, contiguous.

    Raises:
        PictureError: neither a JPEG nor a PNG, damaged, truncated, or beyond the limits.
    """
    width_px, height_px = _size(encoded)
    if width_px * height_px > limits.max_pixels:
        raise PictureError(f"{width_px} x {height_px} pixels are more than the {limits.max_pixels:,} allowed")
    if encoded.startswith(_JPEG_MAGIC) and (scans := encoded.count(_JPEG_SCAN)) > limits.max_scans:
        raise PictureError(f"{scans} progressive scans are more than the {limits.max_scans} allowed")
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as opened:
            image = _in_mode(ImageOps.exif_transpose(opened), _MODES[shape.channels])
    except Exception as error:
        raise PictureError(f"damaged or truncated: {_first_line(error)}") from error
    return _fit(image, shape, preprocessing, limits)


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


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it at 255
        wide = np.asarray(image).astype(np.uint32)  # [H, W], 0..65535
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
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
    elif encoded.startswith(_JPEG_MAGIC):
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
    """Walk the segments up to the frame header: 0xff, marker, length (which counts itself), payload."""
    position = 2  # after SOI
    while (position := encoded.find(b"\xff", position)) >= 0 and position + 9 <= len(encoded):
        marker = encoded[position + 1]
        if marker in _JPEG_FRAMES:  # length, precision (1 byte), height, width
            height_px = int.from_bytes(encoded[position + 5 : position + 7], "big")
            return int.from_bytes(encoded[position + 7 : position + 9], "big"), height_px
        if marker == 0xFF or marker in _JPEG_BARE:  # fill byte, or no payload
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
