"""A file's header decides what decoder sees it, and is read within bounds, whatever the file is made of."""

import io
import random
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from artifact import headers, pictures
from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2
from server.processing import jpeg
from tests.encoding import chunk, encode
from tests.watched import Watched

SHAPE = manifest_pb2.Input(height=8, width=8, channels=3)
PREPROCESSING = manifest_pb2.Preprocessing(
    resize_shorter_px=8, interpolation=manifest_pb2.INTERPOLATION_BILINEAR, scaled_decoding=True
)
CODECS = (pictures.pillow, jpeg.codec)
SOI, EOI = b"\xff\xd8", b"\xff\xd9"
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")


def noise(mode: str, width_px: int = 64, height_px: int = 48) -> Image.Image:
    shape = (height_px, width_px, len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def save(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    return encode(image, file_format, **options)


JPEG, GREY, CMYK = (save(noise(mode)) for mode in ("RGB", "L", "CMYK"))
PROGRESSIVE = save(noise("RGB"), progressive=True)
PNG = save(noise("RGB"), "PNG")
FILES = {1: GREY, 3: JPEG, 4: CMYK}  # by their components


def segment(marker: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def behind_soi(encoded: bytes, *parts: bytes) -> bytes:
    return SOI + b"".join(parts) + encoded[2:]


def with_frame(encoded: bytes, marker: int = 0xC0, bits: int = 8) -> bytes:
    """The same file with another kind of frame, or other bits a sample."""
    start = encoded.index(b"\xff\xc0")
    changed = bytearray(encoded)
    changed[start + 1], changed[start + 4] = marker, bits
    return bytes(changed)


def of_components(count: int) -> bytes:
    """A baseline file whose frame header has so many components."""
    start = GREY.index(b"\xff\xc0")
    payload = GREY[start + 4 : start + 9] + bytes([count])
    payload += b"".join(bytes([number + 1, 0x11, 0]) for number in range(count))
    return GREY[:start] + segment(0xC0, payload) + GREY[start + 2 + 11 :]


def lossless(side_px: int) -> bytes:
    """A valid lossless JPEG: every difference from the neighbour is none, which is one bit."""
    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    frame = segment(0xC3, struct.pack(">BHHB", 8, side_px, side_px, 1) + bytes([1, 0x11, 0]))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))  # the first predictor
    return SOI + table + frame + scan + bytes(side_px * side_px // 8) + EOI


def refusals(encoded: bytes) -> set[str]:
    """Why either codec, and either form of decoding, refuses a file; empty where it is decoded."""
    reasons = set()
    for codec in CODECS:
        for scaled in (False, True):
            preprocessing = manifest_pb2.Preprocessing(
                resize_shorter_px=8,
                interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
                scaled_decoding=scaled,
            )
            try:
                pictures.decode(encoded, SHAPE, preprocessing, codec=codec)
            except PictureError as error:
                reasons.add(str(error))
    return reasons


KINDS = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC8: "reserved kind of",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded",
    0xCB: "lossless arithmetic-coded",
    0xCD: "hierarchical arithmetic-coded",
    0xCE: "hierarchical arithmetic-coded",
    0xCF: "hierarchical arithmetic-coded",
}


@pytest.mark.parametrize("components", FILES)
@pytest.mark.parametrize("marker", sorted({*range(0xC0, 0xD0)} - {0xC4, 0xCC}))  # DHT and DAC are no frames
def test_the_kind_of_a_jpeg_decides_whether_it_is_decoded(marker: int, components: int) -> None:
    reasons = refusals(with_frame(FILES[components], marker))
    if marker in KINDS:
        assert reasons == {f"{KINDS[marker]} JPEG; only baseline and progressive are decoded"}
    elif marker == 0xC2:  # whose scans are others than a baseline file's
        assert reasons <= {"damaged or truncated: what follows the header cannot be decoded"}
    else:
        assert reasons == set()


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 9, 10, 12, 16, 255])
@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2])
def test_a_jpeg_of_other_than_8_bits_is_refused_by_its_header(marker: int, bits: int) -> None:
    reason = f"{bits}-bit JPEG; only 8 bits a sample are decoded"
    assert refusals(with_frame(JPEG, marker, bits)) == {reason}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 10, 255])
def test_a_jpeg_of_unknown_colours_is_refused_by_its_header(count: int) -> None:
    reasons = refusals(of_components(count))
    if count in FILES:  # the scan has one component, so more of them are damage
        assert reasons <= {"damaged or truncated: what follows the header cannot be decoded"}
    else:
        assert reasons == {f"JPEG of {count} components; only 1, 3 and 4 are decoded"}


def test_a_lossless_jpeg_that_is_valid_is_refused_too() -> None:
    """Decoded at an eighth of its size, it made libjpeg-turbo 3 write where it must not."""
    whole = Image.open(io.BytesIO(lossless(256)))
    assert np.asarray(whole).tolist() == [[128] * 256] * 256
    assert refusals(lossless(256)) == {"lossless JPEG; only baseline and progressive are decoded"}


@pytest.mark.parametrize("factors", [0x00, 0x01, 0x10, 0x15, 0x51, 0xFF])
def test_a_sampling_that_cannot_be_is_refused(factors: int) -> None:
    start = JPEG.index(b"\xff\xc0")
    damaged = bytearray(JPEG)
    damaged[start + 11] = factors
    assert refusals(bytes(damaged)) == {"damaged or truncated: the frame header contradicts itself"}


def test_a_million_segments_cost_no_more_than_the_limit() -> None:
    file = Watched(behind_soi(JPEG, segment(0xE1) * 1_000_000))
    with pytest.raises(PictureError, match=r"^more than 4,096 segments$"):
        headers.read(file)
    assert file.looks < 5 * headers.MAX_JPEG_SEGMENTS


def test_the_limit_of_segments_is_exact() -> None:
    own = sum(1 for _ in headers._segments(JPEG))
    most = behind_soi(JPEG, segment(0xFE) * (headers.MAX_JPEG_SEGMENTS - own))
    assert refusals(most) == set()
    assert refusals(behind_soi(most, segment(0xFE))) == {"more than 4,096 segments"}


@pytest.mark.parametrize(
    "filler",
    [segment(0xDB, bytes(65)), segment(0xC4, bytes(17)), b"\0", b"\xff", b"\xff\xd0", b"\xff\x00"],
    ids=["quantization tables", "code tables", "zeros", "fill bytes", "restarts", "escapes"],
)
def test_what_pillow_would_go_over_byte_by_byte_is_bounded(filler: bytes) -> None:
    start = 20  # behind the segment of JFIF
    long = JPEG[:start] + filler * (2 * headers.MAX_JPEG_TABLE_BYTES // len(filler)) + JPEG[start:]
    reason = f"more than {headers.MAX_JPEG_TABLE_BYTES:,} bytes of tables before the picture"
    assert refusals(long) == {reason}


def test_pillow_is_not_shown_what_no_pixel_depends_on() -> None:
    profile = save(noise("RGB"), icc_profile=bytes(200_000), comment=b"by hand", exif=Image.Exif())
    shown = headers.without_metadata(behind_soi(profile, segment(0xED, b"Photoshop 3.0\0" + bytes(99))))
    assert [marker for marker, _ in headers._segments(shown)] == [
        marker for marker, _ in headers._segments(JPEG)
    ]
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown)), Image.open(io.BytesIO(profile)))
    assert headers.without_metadata(CMYK) == CMYK  # Adobe's segment says how its colours are meant


def test_the_chunks_of_a_png_are_counted() -> None:
    def with_chunks(*more: bytes) -> bytes:
        return PNG[:33] + b"".join(more) + PNG[33:]

    own = 3  # IHDR, IDAT, IEND
    most = with_chunks(chunk(b"teSt") * (headers.MAX_PNG_CHUNKS - own))
    assert refusals(most) == set()
    assert refusals(with_chunks(chunk(b"teSt") * (headers.MAX_PNG_CHUNKS + 1))) == {"more than 16,384 chunks"}
    file = Watched(with_chunks(chunk(b"teSt") * 1_000_000))
    with pytest.raises(PictureError, match=r"^more than 16,384 chunks$"):
        headers.read(file)
    assert file.looks < 5


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_what_a_png_may_have_pillow_unpack_is_bounded(name: bytes) -> None:
    bomb = zlib.compress(bytes(1 << 20))
    prefix = b"a\0\1\0\0\0" if name == b"iTXt" else b"a\0\0"
    packed = chunk(name, prefix + bomb) * (headers.MAX_PNG_PACKED_CHUNKS + 1)
    assert refusals(PNG[:33] + packed + PNG[33:]) == {"more than 100 chunks of compressed metadata"}


def test_the_search_for_markers_finds_what_the_pattern_says_at_every_distance() -> None:
    generator = random.Random(0)
    near, window = headers._NEAR_BYTES, headers.SEARCH_WINDOW_BYTES
    values = bytes(set(range(256)) - {*range(0xC0, 0xD0), *range(0xD9, 0xFF)})
    for size in (0, 1, 2, near - 1, near, near + 1, 5 * near, 6 * near, window, 3 * window):
        for _ in range(20):
            content = bytearray(generator.choices(values, weights=[9] * (len(values) - 1) + [90], k=97))
            content = (content * (size // 97 + 1))[:size]
            for _ in range(generator.randint(0, 2) if size > 1 else 0):
                place = generator.randrange(size - 1)
                content[place : place + 2] = bytes([0xFF, generator.randrange(0xBE, 0x100)])
            file = bytes(content)
            start = generator.randint(0, size)
            found = MARKER.search(file, start)
            assert headers._next_marker(file, start) == (found.start() if found else None)


def exif(orientation: int, byte_order: str = "<", kind: int = 3) -> bytes:
    value = struct.pack(byte_order + ("HH" if kind == 3 else "I"), *[orientation, 0][: 2 if kind == 3 else 1])
    entry = struct.pack(byte_order + "HHI", 0x0112, kind, 1) + value
    order = b"II*\0" if byte_order == "<" else b"MM\0*"
    return order + struct.pack(byte_order + "IH", 8, 1) + entry + bytes(4)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
def test_a_jpeg_is_turned_as_its_exif_says_and_else_its_xmp(codec, byte_order: str, kind: int) -> None:
    turn = {6: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    in_xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    in_exif = segment(0xE1, b"Exif\0\0" + exif(3, byte_order, kind))
    for parts, orientation in (((in_xmp,), 6), ((in_exif,), 3), ((in_xmp, in_exif), 3)):
        file = behind_soi(JPEG, *parts)
        image = codec(file, pictures.check(file), "RGB", 1)
        np.testing.assert_array_equal(image, Image.open(io.BytesIO(JPEG)).transpose(turn[orientation]))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"II",
        b"II*\0",
        b"XX*\0" + bytes(99),
        exif(6)[:20],
        b"II*\0" + struct.pack("<I", 2**32 - 1) + bytes(99),
        b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(12 * 9),
        exif(9),
        exif(0),
    ],
)
def test_an_exif_that_says_nothing_turns_nothing(broken: bytes) -> None:
    file = behind_soi(JPEG, segment(0xE1, b"Exif\0\0" + broken))
    assert headers.read(file).orientation in {1, 0, 9}
    for codec in CODECS:
        image = codec(file, pictures.check(file), "RGB", 1)
        np.testing.assert_array_equal(image, Image.open(io.BytesIO(JPEG)))


@pytest.mark.parametrize("size", [(1, 2_000_000), (2_000_000, 1)])
def test_a_strip_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    def unwanted(*_: object) -> Image.Image:
        raise AssertionError("it was decoded")

    with pytest.raises(PictureError, match="too narrow a strip to resize"):
        pictures.decode(save(Image.new("L", size), "PNG"), SHAPE, PREPROCESSING, codec=unwanted)


def test_what_resizing_makes_of_a_strip_counts_as_what_it_costs() -> None:
    strip = pictures.check(save(Image.new("L", (10, 7_000)), "PNG"))
    to_224 = manifest_pb2.Preprocessing(resize_shorter_px=224)
    assert pictures.cost(strip, SHAPE, to_224) == pictures.Cost(224 * 156_800, 224 * 156_800)


def test_what_scaled_decoding_holds_is_less_than_what_it_goes_over() -> None:
    large = {"baseline": {}, "progressive": {"progressive": True}}
    costs = {
        name: pictures.cost(pictures.check(save(Image.new("L", (640, 640)), **options)), SHAPE, PREPROCESSING)
        for name, options in large.items()
    }
    assert costs["baseline"] == pictures.Cost(640 * 640, 80 * 80)
    assert costs["progressive"].held_px == 640 * 640  # all coefficients stay until the last scan
