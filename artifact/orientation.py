"""How a picture has to be turned to be upright: one rule for all formats, in training, export and server."""

import re
import struct

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_EXIF_ORIENTATION = 0x0112
_EXIF_INTEGERS = {3: "H", 4: "I"}  # types SHORT and LONG
_EXIF_ENTRY_BYTES = 12


def orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation that metadata give, 1 where they give none.

    Args:
        exif: what follows the name of the segment, a TIFF header and its directories; the first decides.
        xmp: the packet, which decides where EXIF does not.
    """
    given = _exif_orientation(exif)
    if given is None and (found := _XMP_ORIENTATION.search(xmp)):
        given = int(found[1])
    return 1 if given is None else given


def _exif_orientation(exif: bytes) -> int | None:
    """Read the orientation of the first directory, where it is one whole number."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start) if start + 2 <= len(exif) else (0,)
    for position in range(start + 2, start + 2 + count * _EXIF_ENTRY_BYTES, _EXIF_ENTRY_BYTES):
        if position + _EXIF_ENTRY_BYTES > len(exif):
            return None
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, position)
        if tag == _EXIF_ORIENTATION:
            if kind not in _EXIF_INTEGERS or values != 1:
                return None
            (value,) = struct.unpack_from(order + _EXIF_INTEGERS[kind], exif, position + 8)
            return int(value)
    return None
