"""JPEG files to pictures, without Pillow's detour: the same pixels in two thirds of the time."""

import numpy as np
import simplejpeg
from PIL import Image

from artifact import pictures
from artifact.headers import Header

_SPACES = {"Gray": "GRAY", "YCbCr": "RGB"}  # as files have them, and as they are wanted
_FULL = (1, 1)  # a component that has a sample for every pixel
# What the native decoder was proved on, by the sampling of the components: grey, 4:4:4, 4:2:2, 4:2:0.
_PROVED = frozenset({(_FULL,), (_FULL, _FULL, _FULL), ((2, 1), _FULL, _FULL), ((2, 2), _FULL, _FULL)})


def codec(
    encoded: bytes,
    header: Header,
    mode: str,
    divisor: int,
    background: pictures.Colour | None = None,
) -> Image.Image:
    """Decode a picture after the check of its header; a `pictures.Codec`.

    What libjpeg-turbo does not take as it is (other samplings and colour spaces, damage, another kind of
    file) is left to Pillow, which knows better or says what is wrong.

    Raises:
        PictureError: damaged or truncated.
        MemoryError: there is no room for its pixels.
    """
    if header.sampling in _PROVED:
        try:
            image = _decoded(encoded, header, divisor)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, Pillow has the last word
            image = None
        if image is not None:
            return pictures.turned(pictures.in_mode(image, mode), header.orientation)
    return pictures.pillow(encoded, header, mode, divisor, background)


def _decoded(encoded: bytes, header: Header, divisor: int) -> Image.Image | None:
    height_px, width_px, space, _ = simplejpeg.decode_jpeg_header(encoded)
    if space not in _SPACES or (width_px, height_px) != header.size:
        return None
    pixels: pictures.Pixels = simplejpeg.decode_jpeg(
        encoded,
        _SPACES[space],
        min_height=-(-height_px // divisor),
        min_width=-(-width_px // divisor),
        min_factor=divisor,
    )  # [H, W, C]
    return Image.fromarray(pixels[:, :, 0] if space == "Gray" else np.ascontiguousarray(pixels))
