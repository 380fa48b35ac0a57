"""From encoded pictures to the network's pixels: the one preprocessing.

Training, export and server all come through here, so a picture becomes the same pixels everywhere. The
header is read first, and decides whether the rest is worth decoding.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, UnidentifiedImageError
from PIL import WebPImagePlugin as _WebPImagePlugin  # noqa: F401 - registers itself

from artifact import headers
from artifact.errors import PictureError
from artifact.fitting import resizing
from artifact.headers import Header
from artifact.orientation import orientation
from modelzoo.v1 import manifest_pb2

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, ...]  # red, green, blue; 0 to 255
# Decodes a file after the check of its header: the file, its header, Pillow's name of the wanted mode (`L` or
# `RGB`), the divisor of its size, and the background of what is transparent (None: transparency is dropped).
# Returns an upright picture; raises PictureError or MemoryError.
Codec = Callable[[bytes, Header, str, int, Colour | None], Image.Image]

# As the import of the WebP plugin above: registers the codecs now, rather than while the first picture waits
# (20 ms).
Image.preinit()
# Pillow warns of what it repairs, odd EXIF say, in words from the file, and Python keeps every one of them.
warnings.filterwarnings("ignore", module=r"PIL\.")

_JPEG_DIVISORS = (8, 4, 2)  # of the size that a JPEG's coefficients give at once

_WEBP_CANVASES = 3  # as many times the memory of a picture as others take
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


@dataclass(frozen=True)
class Limits:
    """What a picture may cost before it is refused.

    Attributes:
        max_pixels: width times height, of the file and again after resizing. 40 million is a 24 x 36 mm
            camera's frame; as RGB it takes 160 MB, and twice as much while it is decoded or turned.
        max_scans: of a progressive JPEG. Sane files have under 20; thousands of empty ones make a small
            file cost minutes.
    """

    max_pixels: int = 40_000_000
    max_scans: int = 100


@dataclass(frozen=True, slots=True)
class Cost:
    """What decoding a picture and fitting it to an input takes.

    Attributes:
        work_px: pixels that are gone over: those of the file, for many scans several times; or those after
            resizing, where these are more.
        held_px: pixels that are in memory at once.
    """

    work_px: int
    held_px: int


def decode(
    encoded: bytes,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    limits: Limits = Limits(),
    codec: Codec | None = None,
    header: Header | None = None,
) -> Pixels:
    """Decode a JPEG, PNG or WebP file and fit it to a network's input.

    The picture is turned upright (EXIF, else XMP), put on the manifest's background or, where it has none,
    rid of its transparency, and made grey or RGB; 16-bit grey is scaled by 1/257.

    Args:
        codec: another than `pillow`, which must give the same pixels.
        header: what `check` returned for this file, if it was asked.

    Returns:
        uint8 ``[H, W, C]``, contiguous.

    Raises:
        PictureError: neither a JPEG, a PNG nor a WebP, of a kind that is not decoded, damaged, truncated,
            beyond the limits, or too large for the memory that is left. Pillow's own words are in the cause
            alone.
    """
    header = header or check(encoded, limits)
    cost(header, shape, preprocessing, limits)
    try:
        image = (codec or pillow)(
            encoded,
            header,
            _MODES[shape.channels],
            _divisor(header, shape, preprocessing),
            background_of(preprocessing),
        )
        return _fit(image, shape, preprocessing, limits)
    except MemoryError as error:
        raise PictureError("too large to be decoded in the memory that is left") from error


def background_of(preprocessing: manifest_pb2.Preprocessing) -> Colour | None:
    """Return the colour that transparent pictures are put on; None where their transparency is dropped."""
    return ImageColor.getrgb(preprocessing.background) if preprocessing.background else None


def check(encoded: bytes, limits: Limits = Limits()) -> Header:
    """Read a file's header, which decides whether and by what the rest is decoded.

    Raises:
        PictureError: neither a JPEG, a PNG nor a WebP, of a kind that is not decoded, without a size, or
            beyond the limits.
    """
    header = headers.read(encoded)
    if header.width_px * header.height_px > limits.max_pixels:
        raise PictureError(
            f"{header.width_px} x {header.height_px} pixels are more than the {limits.max_pixels:,} allowed"
        )
    if header.scans > limits.max_scans:
        raise PictureError(f"{header.scans} progressive scans are more than the {limits.max_scans} allowed")
    if not header.scans:
        raise PictureError("damaged or truncated: no picture follows the header")
    return header


def cost(
    header: Header,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    limits: Limits = Limits(),
) -> Cost:
    """Return what decoding a picture takes, by its header alone.

    Raises:
        PictureError: beyond the limits once it is resized.
    """
    by = _divisor(header, shape, preprocessing)
    width_px, height_px = (-(-side_px // by) for side_px in header.size)
    resized = _resized(width_px, height_px, shape, preprocessing, limits)
    whole_px = header.width_px * header.height_px
    decoded_px = whole_px if header.scans > 1 else width_px * height_px  # several scans need all coefficients
    resized_px = resized[0] * resized[1]
    if header.kind == "WEBP":  # decoded into a canvas with an alpha channel, of which there are two
        decoded_px *= _WEBP_CANVASES
    return Cost(max(whole_px * max(1, header.scans // _USUAL_SCANS), resized_px), max(decoded_px, resized_px))


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
    size = _resized(*image.size, shape, preprocessing, limits)
    return resizing.fit(image, size, shape, preprocessing)


def _resized(
    width_px: int,
    height_px: int,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    limits: Limits,
) -> tuple[int, int]:
    """Return the size after resizing, where it is within the limits."""
    size = resizing.resized(width_px, height_px, shape, preprocessing)
    if size[0] * size[1] > limits.max_pixels:
        raise PictureError(f"{width_px} x {height_px} pixels are too narrow a strip to resize")
    return size


def pillow(
    encoded: bytes, header: Header, mode: str, divisor: int, background: Colour | None = None
) -> Image.Image:
    """Decode a picture after the check of its header; the `Codec` that others are held against.

    Raises:
        PictureError: damaged or truncated.
        MemoryError: there is no room for its pixels.
    """
    try:
        if header.is_jpeg:
            encoded = headers.without_metadata(encoded)
        with Image.open(io.BytesIO(encoded), formats=(header.kind,)) as opened:
            if opened.size != header.size:  # else a second header would pass unchecked
                raise PictureError("damaged or truncated: the headers give several sizes")
            if divisor > 1:
                opened.draft(None, (opened.width // divisor, opened.height // divisor))
            opened.load()  # while the file is open; a PNG may say its orientation after its pixels
            turn = _png_orientation(opened.info) if header.kind == "PNG" else header.orientation
            return turned(in_mode(opened, mode, background), turn)
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError("damaged or truncated: no picture follows the header") from error
    # Pillow raises what it likes, in words that quote the file or our memory: none of them goes on.
    except Exception as error:
        raise PictureError("damaged or truncated: what follows the header cannot be decoded") from error


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture upright; its orientation is numbered as EXIF does."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def in_mode(image: Image.Image, mode: str, background: Colour | None = None) -> Image.Image:
    """Make a picture grey or RGB; ``mode`` is Pillow's name of that.

    Args:
        background: what transparent pixels are composited on; None drops their transparency.
    """
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it at 255
        levels = np.asarray(image, np.uint16)  # [H, W]
        transparent = image.info.get("transparency")  # the one level that is
        image = Image.fromarray(_NARROW[levels])
        if background is not None and transparent is not None:
            image.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    if background is not None and image.has_transparency_data:
        image = _on(background, image)
    image.info.pop("transparency", None)  # dropped, and not converted too
    return image if image.mode == mode else image.convert(mode)


def _on(background: Colour, image: Image.Image) -> Image.Image:
    """Composite a picture on a colour, in RGB."""
    if image.mode not in {"LA", "RGBA"}:  # a palette, or one colour that is transparent
        image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, background)
    ground.paste(image, mask=image)
    return ground


def _divisor(header: Header, shape: manifest_pb2.Input, preprocessing: manifest_pb2.Preprocessing) -> int:
    """Return by how much smaller a file may be decoded than it is."""
    if not preprocessing.scaled_decoding:
        return 1
    # With a letterbox, as a line or stretched, no side becomes longer than these.
    fitted_px = (shape.height, shape.width, preprocessing.resize_height_px, preprocessing.resize_width_px)
    return divisor(header, 2 * (preprocessing.resize_shorter_px or max(fitted_px)))


def divisor(header: Header, needed_px: int) -> int:
    """Return by how much smaller a JPEG may be decoded for its shorter side to be so long; 1 for others."""
    return next((by for by in _JPEG_DIVISORS if header.is_jpeg and min(header.size) // by >= needed_px), 1)


def _png_orientation(info: Mapping[str | tuple[int, int], object]) -> int:
    """Read the orientation out of a PNG's metadata, wherever writers put them."""
    exif, profile = info.get("exif"), info.get("Raw profile type exif")
    if not isinstance(exif, bytes):
        # ImageMagick's: three lines about it, then hexadecimal digits.
        exif = bytes.fromhex("".join(profile.split("\n")[3:])) if isinstance(profile, str) else b""
    xmp = info.get("xmp")
    return orientation(exif.removeprefix(b"Exif\0\0"), xmp if isinstance(xmp, bytes) else b"")
