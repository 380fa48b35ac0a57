"""JPEG files to pictures, without Pillow's detour: the same pixels in two thirds of the time."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from artifact import pictures

_EXIF = b"Exif\0\0"
_SPACES = {"Gray": "GRAY", "YCbCr": "RGB"}  # as files have them, and as they are wanted


def codec(encoded: bytes, mode: str, divisor: int) -> Image.Image:
    """Decode a picture that was measured; a `pictures.Codec`.

    What libjpeg-turbo does not take as it is (other colour spaces, damage, another kind of file) is left
    to Pillow, which knows better or says what is wrong.

    Raises:
        PictureError: damaged or truncated.
        MemoryError: there is no room for its pixels.
    """
    if pictures.is_jpeg(encoded):
        try:
            image = _decoded(encoded, divisor)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, Pillow has the last word
            image = None
        if image is not None:
            return pictures.in_mode(image, mode)
    return pictures.pillow(encoded, mode, divisor)


def _decoded(encoded: bytes, divisor: int) -> Image.Image | None:
    height_px, width_px, space, _ = simplejpeg.decode_jpeg_header(encoded)
    if space not in _SPACES:
        return None
    pixels: pictures.Pixels = simplejpeg.decode_jpeg(
        encoded,
        _SPACES[space],
        min_height=-(-height_px // divisor),
        min_width=-(-width_px // divisor),
        min_factor=divisor,
    )  # [H, W, C]
    image = Image.fromarray(pixels[:, :, 0] if space == "Gray" else np.ascontiguousarray(pixels))
    if _EXIF not in encoded:
        return image
    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as opened:  # reads the header, no pixels
        return pictures.turned(image, opened.getexif())
