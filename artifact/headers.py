"""What the header of a JPEG, PNG or WebP file says, read within bounds that no file can stretch.

Everything that decides whether a picture is decoded, by which decoder and at what cost is read here, for
training, export and server alike. A file is searched once, natively, and has a bounded number of parts.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from artifact import webp
from artifact.errors import PictureError
from artifact.orientation import orientation
from artifact.webp import NO_SIZE

# Parts that a file may have: each costs about a microsecond here, and some more in Pillow. A progressive JPEG
# has a few hundred at most, and a profile or a provenance record of 10 MB comes in pieces of 64 kB.
MAX_JPEG_SEGMENTS = 4_096
# libpng writes a chunk every 8 kB, others every 4 kB: 64 MB of these.
MAX_PNG_CHUNKS = 16_384
# Chunks that may hold compressed content: Pillow unpacks up to 1 MB of each, which takes some 3 ms.
MAX_PNG_PACKED_CHUNKS = 100
# Bytes before the first scan of a JPEG that are no metadata: tables, and what belongs to no segment. Pillow
# goes over them in Python. All tables that a decoder can hold are under 4 kB.
MAX_JPEG_TABLE_BYTES = 1 << 16
# Searched for a marker at once: one search of a whole file would keep every other thread waiting. The first
# part is searched by what starts fastest, as most markers are near, the rest by what no content slows down.
SEARCH_WINDOW_BYTES, _NEAR_BYTES = 1 << 18, 1 << 10

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK = struct.Struct(">I4s")  # length of the content, and name; content and checksum follow
_PNG_CHECKSUM_BYTES = 4
_PNG_HEADER_BYTES = 13  # of the content of IHDR
_PNG_PACKED = frozenset({b"iCCP", b"zTXt", b"iTXt"})

_JPEG_MAGIC = b"\xff\xd8\xff"
# What begins a segment, or ends the picture. The others have no payload, or libjpeg skips none: escaped
# 0xff of the entropy-coded data (0x00), what is not defined (below 0xc0), RST0..7, SOI (0xd8), fill bytes.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_JPEG_SCAN, _JPEG_END, _JPEG_APP1 = 0xDA, 0xD9, 0xE1
_JPEG_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})  # APP0..15 and COM
_JPEG_COLOUR = frozenset({0xE0, 0xEE})  # those that decide the colour space: JFIF's and Adobe's
_JPEG_DECODED = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive, all with Huffman codes
_JPEG_REFUSED = {  # ITU-T T.81, table B.1; 0xDE begins a hierarchy of frames
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xDE), "hierarchical"),
    0xC8: "reserved kind of",
    **dict.fromkeys((0xC9, 0xCA), "arithmetic-coded"),
    0xCB: "lossless arithmetic-coded",
    **dict.fromkeys((0xCD, 0xCE, 0xCF), "hierarchical arithmetic-coded"),
}
_JPEG_FRAMES = _JPEG_DECODED | _JPEG_REFUSED.keys()
_JPEG_COMPONENTS = (1, 3, 4)
_JPEG_FRAME = struct.Struct(">HBHHB")  # length, bits of a sample, height, width, number of components
_JPEG_COMPONENT_BYTES = 3  # of each, behind that: its name, its sampling and its table
_JPEG_MAX_SAMPLING = 4

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # how such segments begin


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file says.

    Attributes:
        kind: ``JPEG``, ``PNG`` or ``WEBP``, as Pillow names them.
        scans: passes over the picture that decoding takes; 0 where none follows the header of a JPEG.
        sampling: of a JPEG's components, horizontal and vertical.
        orientation: as EXIF numbers them; 1 is upright. A PNG may say its own after its pixels.
    """

    kind: str
    width_px: int
    height_px: int
    scans: int = 1
    sampling: tuple[tuple[int, int], ...] = ()
    orientation: int = 1

    @property
    def is_jpeg(self) -> bool:
        """Return whether it is a JPEG file."""
        return self.kind == "JPEG"

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return self.width_px, self.height_px


def is_known(encoded: bytes) -> bool:
    """Return whether a file begins as one of the formats does that are read here."""
    return encoded.startswith((_PNG_MAGIC, _JPEG_MAGIC)) or webp.is_webp(encoded)


def read(encoded: bytes) -> Header:
    """Read what decides how a file is decoded.

    Raises:
        PictureError: neither a JPEG, a PNG nor a WebP; of a kind that is not decoded; without a size; or of
            too many parts.
    """
    if not encoded:
        raise PictureError("empty")
    if encoded.startswith(_PNG_MAGIC):
        header = _read_png(encoded)
    elif encoded.startswith(_JPEG_MAGIC):
        header = _read_jpeg(encoded)
    elif webp.is_webp(encoded):
        found = webp.read(encoded)
        turned = orientation(found.exif.removeprefix(_EXIF), found.xmp)
        header = Header("WEBP", found.width_px, found.height_px, orientation=turned)
    else:
        raise PictureError("neither a JPEG, a PNG nor a WebP file")
    if 0 in header.size:
        raise PictureError(NO_SIZE)
    return header


def without_metadata(encoded: bytes) -> bytes:
    """Return a JPEG file without what Pillow would parse in Python and no pixel depends on.

    That is every application segment but those that say the colour space, and comments: profiles of
    megabytes, EXIF directories that refer to each other, further pictures. `read` must have passed the file.
    """
    kept = []
    start = 0
    for marker, position in _segments(encoded):
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_METADATA and marker not in _JPEG_COLOUR:
            kept.append(encoded[start : position - 2])
            start = position + _length(encoded, position)
    return b"".join((*kept, encoded[start:])) if kept else encoded


def _read_png(encoded: bytes) -> Header:
    """Read the size, and count the chunks up to the end of the picture; what follows it is not looked at."""
    first = encoded[len(_PNG_MAGIC) : len(_PNG_MAGIC) + _PNG_CHUNK.size + _PNG_HEADER_BYTES]
    if len(first) < _PNG_CHUNK.size + 8 or _PNG_CHUNK.unpack_from(first) != (_PNG_HEADER_BYTES, b"IHDR"):
        raise PictureError(NO_SIZE)
    width_px, height_px = struct.unpack_from(">II", first, _PNG_CHUNK.size)
    chunks = packed = 0
    position = len(_PNG_MAGIC)
    while position + _PNG_CHUNK.size <= len(encoded):
        length, name = _PNG_CHUNK.unpack_from(encoded, position)
        position += _PNG_CHUNK.size + length + _PNG_CHECKSUM_BYTES
        chunks += 1
        packed += name in _PNG_PACKED
        if name == b"IEND":
            break
        if chunks > 1 and name == b"IHDR":  # the later one would hold
            raise PictureError("damaged or truncated: several headers")
        if chunks > MAX_PNG_CHUNKS:
            raise PictureError(f"more than {MAX_PNG_CHUNKS:,} chunks")
        if packed > MAX_PNG_PACKED_CHUNKS:
            raise PictureError(f"more than {MAX_PNG_PACKED_CHUNKS} chunks of compressed metadata")
    return Header("PNG", width_px, height_px)


def _read_jpeg(encoded: bytes) -> Header:
    frame: _Frame | None = None
    metadata: dict[bytes, bytes] = {}
    scans = 0
    for marker, position in _segments(encoded):
        if marker == _JPEG_SCAN:
            scans += 1
        elif marker == _JPEG_APP1:
            payload = encoded[position + 2 : position + _length(encoded, position)]
            for name in (_EXIF, _XMP):
                if payload.startswith(name):
                    metadata.setdefault(name, payload[len(name) :])
        elif (
            marker in _JPEG_FRAMES and not scans
        ):  # later ones libjpeg does not take, and decoded pixels stand
            if frame is not None:
                raise PictureError("damaged or truncated: several headers")
            frame = _read_frame(encoded, marker, position)
    if frame is None:
        raise PictureError(NO_SIZE)
    turned = orientation(metadata.get(_EXIF, b""), metadata.get(_XMP, b""))
    return Header("JPEG", frame.width_px, frame.height_px, scans, frame.sampling, turned)


class _Frame(NamedTuple):
    width_px: int
    height_px: int
    sampling: tuple[tuple[int, int], ...]


def _read_frame(encoded: bytes, marker: int, position: int) -> _Frame:
    """Read a frame header.

    Raises:
        PictureError: it is cut off, of a kind that is not decoded, or contradicts itself.
    """
    if marker in _JPEG_REFUSED:
        raise PictureError(f"{_JPEG_REFUSED[marker]} JPEG; only baseline and progressive are decoded")
    if position + max(_JPEG_FRAME.size, _length(encoded, position)) > len(encoded):
        raise PictureError(NO_SIZE)
    length, bits, height_px, width_px, count = _JPEG_FRAME.unpack_from(encoded, position)
    if bits != 8:
        raise PictureError(f"{bits}-bit JPEG; only 8 bits a sample are decoded")
    if count not in _JPEG_COMPONENTS:
        raise PictureError(f"JPEG of {count} components; only 1, 3 and 4 are decoded")
    start, size_bytes = position + _JPEG_FRAME.size, count * _JPEG_COMPONENT_BYTES
    factors = encoded[start : start + size_bytes][1::_JPEG_COMPONENT_BYTES]
    sampling = tuple((factor >> 4, factor & 15) for factor in factors)
    if length != _JPEG_FRAME.size + size_bytes or not all(
        1 <= factor <= _JPEG_MAX_SAMPLING for pair in sampling for factor in pair
    ):
        raise PictureError("damaged or truncated: the frame header contradicts itself")
    return _Frame(width_px, height_px, sampling)


def _segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Walk as libjpeg does, up to the end of the picture; what follows it (a film, say) is not looked at.

    Whatever libjpeg would take for a scan must come up here, or scans could hide from being counted.

    Yields:
        A segment's marker, and where its length (2 bytes that count themselves) and payload begin.

    Raises:
        PictureError: there are too many, or too much between them.
    """
    position = 2  # after SOI
    count = table_bytes = 0
    scanned = False
    while (found := _next_marker(encoded, position)) is not None:
        stray_bytes = found - position
        marker, position = encoded[found + 1], found + 2
        if marker == _JPEG_END:
            return
        count += 1
        if count > MAX_JPEG_SEGMENTS:
            raise PictureError(f"more than {MAX_JPEG_SEGMENTS:,} segments")
        yield marker, position
        length = _length(encoded, position)
        position += length
        scanned = scanned or marker == _JPEG_SCAN
        if not scanned:
            table_bytes += stray_bytes + (0 if marker in _JPEG_METADATA else length)
            if table_bytes > MAX_JPEG_TABLE_BYTES:
                raise PictureError(f"more than {MAX_JPEG_TABLE_BYTES:,} bytes of tables before the picture")


def _next_marker(encoded: bytes, position: int) -> int | None:
    """Find where the next marker that begins a segment, or ends the picture, stands."""
    if found := _JPEG_MARKER.search(encoded, position, position + _NEAR_BYTES):
        return found.start()
    values = np.frombuffer(encoded, np.uint8)
    position += _NEAR_BYTES - 1  # a marker may lie across
    window_bytes = 4 * _NEAR_BYTES
    while position + 1 < len(values):
        window = values[position : position + window_bytes]
        following = window[1:]
        hits = window[:-1] == 0xFF  # and what follows is as `_JPEG_MARKER` has it
        hits &= following >= 0xC0
        hits &= following != 0xFF
        hits &= following - np.uint8(0xD0) > 0xD8 - 0xD0  # below 0xd0 the difference wraps round
        first = int(hits.argmax())
        if hits[first]:
            return position + first
        position += len(window) - 1
        window_bytes = min(4 * window_bytes, SEARCH_WINDOW_BYTES)
    return None


def _length(encoded: bytes, position: int) -> int:
    return int.from_bytes(encoded[position : position + 2], "big")
