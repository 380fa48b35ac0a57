"""What the header of a WebP file says, read within bounds that no file can stretch.

Reference: RFC 9649, "WebP Image Format", 2024.
"""

import struct
from typing import NamedTuple

from artifact.errors import PictureError

MAX_CHUNKS = 4_096  # a frame of an animation is one; each costs about a microsecond here and in libwebp
MAX_METADATA_BYTES = 1 << 16  # that are looked at, as much as a JPEG's segment holds: 64 MB would take 0.2 s
_FILE = struct.Struct("<4sI4s")  # RIFF, bytes that follow, WEBP
_CHUNK = struct.Struct("<4sI")  # name, bytes of the content, which is padded to an even number
_LOSSY_BYTES, _LOSSLESS_BYTES, _EXTENDED_BYTES = 10, 5, 10
_LOSSY_START, _LOSSLESS_START = b"\x9d\x01\x2a", b"\x2f"
_SIDE = (1 << 14) - 1  # bits of a side in a lossy or lossless bitstream

NO_SIZE = "damaged or truncated: the header gives no size"


class WebP(NamedTuple):
    """What the header of a file says.

    Attributes:
        exif: the beginning of the first such chunk; empty where there is none.
        xmp: the same.
    """

    width_px: int
    height_px: int
    exif: bytes
    xmp: bytes


def is_webp(encoded: bytes) -> bool:
    """Return whether a file begins as WebP files do."""
    return encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"


def read(encoded: bytes) -> WebP:
    """Read what decides what decoding a file costs; of an animation, the size of its canvas.

    Raises:
        PictureError: without a size, or of too many parts.
    """
    _, following_bytes, _ = _FILE.unpack_from(encoded)
    end = min(len(encoded), 8 + following_bytes)
    position, chunks = _FILE.size, 0
    size, exif, xmp = (0, 0), b"", b""
    while position + _CHUNK.size <= end:
        if (chunks := chunks + 1) > MAX_CHUNKS:
            raise PictureError(f"more than {MAX_CHUNKS:,} chunks")
        name, length = _CHUNK.unpack_from(encoded, position)
        start = position + _CHUNK.size
        position = start + length + (length & 1)
        if size == (0, 0):  # the first chunk says it
            size = _size(name, encoded[start : start + _EXTENDED_BYTES])
        elif name == b"EXIF" and not exif:
            exif = encoded[start : start + min(length, MAX_METADATA_BYTES)]
        elif name == b"XMP " and not xmp:
            xmp = encoded[start : start + min(length, MAX_METADATA_BYTES)]
    return WebP(*size, exif, xmp)


def _size(name: bytes, content: bytes) -> tuple[int, int]:
    """Return (width, height) as the first chunk gives them.

    Raises:
        PictureError: it does not.
    """
    if name == b"VP8X" and len(content) == _EXTENDED_BYTES:
        sides = (int.from_bytes(content[4:7], "little"), int.from_bytes(content[7:10], "little"))
        return sides[0] + 1, sides[1] + 1
    if name == b"VP8 " and len(content) == _LOSSY_BYTES and content[3:6] == _LOSSY_START:
        width_px, height_px = struct.unpack_from("<HH", content, 6)
        return width_px & _SIDE, height_px & _SIDE
    if name == b"VP8L" and len(content) >= _LOSSLESS_BYTES and content[:1] == _LOSSLESS_START:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & _SIDE) + 1, (bits >> 14 & _SIDE) + 1
    raise PictureError(NO_SIZE)
