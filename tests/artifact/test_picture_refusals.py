"""What is no picture, or costs too much, is refused in words; nothing but PictureError comes out."""

import random
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from artifact import pictures
from artifact.errors import PictureError
from artifact.pictures import Limits
from modelzoo.v1 import manifest_pb2
from tests.encoding import chunk, encode

SHAPE = manifest_pb2.Input(height=8, width=8, channels=3)
PREPROCESSING = manifest_pb2.Preprocessing(
    resize_shorter_px=8, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
)
DEFAULT = Limits()
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Every reason that may reach a client: none of Pillow's own, which quote the file or addresses in memory.
REASONS = re.compile(
    r"empty|neither a JPEG, a PNG nor a WebP file|\d+ progressive scans are more than the \d+ allowed"
    r"|damaged or truncated: (the header gives no size|several headers|the frame header contradicts itself"
    r"|no picture follows the header|what follows the header cannot be decoded)"
    r"|[a-z -]+ JPEG; only baseline and progressive are decoded"
    r"|\d+-bit JPEG; only 8 bits a sample are decoded"
    r"|JPEG of \d+ components; only 1, 3 and 4 are decoded|more than [\d,]+ (segments|chunks)"
    r"|more than 65,536 bytes of tables before the picture"
    r"|\d+ x \d+ pixels are (more than the [\d,]+ allowed|too narrow a strip to resize)"
)


def decode(encoded: bytes, limits: Limits = DEFAULT) -> np.ndarray:
    return pictures.decode(encoded, SHAPE, PREPROCESSING, limits)


def noise(width_px: int = 40, height_px: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), np.uint8))


def header(width_px: int, height_px: int, bit_depth: int = 1) -> bytes:
    """The IHDR chunk of a grey PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, bit_depth, 0, 0, 0, 0))


def black(width_px: int, height_px: int) -> bytes:
    """The chunks after the header of a black 1-bit PNG; compresses a thousandfold."""
    pack = zlib.compressobj(9)
    row = bytes(1 + (width_px + 7) // 8)
    data = b"".join(pack.compress(row * 100) for _ in range(height_px // 100)) + pack.flush()
    return chunk(b"IDAT", data) + chunk(b"IEND", b"")


def segment(encoded: bytes, marker: bytes) -> slice:
    """Where the first segment with this marker lies, marker included."""
    start = encoded.index(marker)
    return slice(start, start + 2 + int.from_bytes(encoded[start + 2 : start + 4], "big"))


def resized_header(encoded: bytes, width_px: int, height_px: int) -> bytes:
    """The frame header of a JPEG, which claims another size."""
    frame = encoded[segment(encoded, b"\xff\xc0")]
    return frame[:5] + struct.pack(">HH", height_px, width_px) + frame[9:]


JPEG = encode(noise(), "JPEG")
PROGRESSIVE = encode(noise(), "JPEG", progressive=True)
PNG = encode(noise(), "PNG")


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "^empty$"),
        (b"a picture", "^neither a JPEG, a PNG nor a WebP file$"),
        (encode(noise(), "GIF"), "^neither a JPEG, a PNG nor a WebP file$"),
        (encode(noise(), "TIFF"), "^neither a JPEG, a PNG nor a WebP file$"),
        (PNG[1:], "^neither a JPEG, a PNG nor a WebP file$"),
        (b"\xff\xd8\xff", "^damaged or truncated: the header gives no size$"),
        ((PNG_MAGIC + header(256, 256))[:23], r"^damaged or truncated: the header gives no size$"),
        (
            encode(noise(300, 300), "JPEG").partition(b"\xff\xc0")[0] + b"\xff\xc0\x00\x11\x08\x01\x2c\x01",
            r"^damaged or truncated: the header gives no size$",
        ),
        (PNG_MAGIC + header(0, 8) + black(0, 100), "^damaged or truncated: the header gives no size$"),
        (PNG_MAGIC + header(8, 100), "^damaged or truncated: no picture follows the header$"),
    ],
    ids=[
        "nothing",
        "text",
        "gif",
        "tiff",
        "late png",
        "jpeg magic",
        "half a png header",
        "half a jpeg header",
        "no width",
        "no pixels",
    ],
)
def test_what_is_no_picture_is_refused_in_words(encoded: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(encoded)


@pytest.mark.parametrize("encoded", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
def test_a_truncated_picture_is_refused_at_every_length(encoded: bytes) -> None:
    decode(encoded)
    data = encoded.index(b"IDAT" if encoded is PNG else b"\xff\xda")
    lengths = {len(encoded) // 2, len(encoded) * 9 // 10, data - 4, data, data + 20}
    for length in sorted(lengths | set(range(1, data, 7))):
        with pytest.raises(PictureError) as caught:
            decode(encoded[:length])
        assert str(caught.value).startswith(("damaged or truncated: ", "neither a JPEG"))
        assert REASONS.fullmatch(str(caught.value))


def test_a_small_file_of_900_million_pixels_is_refused_by_its_header() -> None:
    bomb = PNG_MAGIC + header(30_000, 30_000) + black(30_000, 30_000)
    assert len(bomb) < 1 << 18
    with pytest.raises(PictureError, match=r"^30000 x 30000 pixels are more than the 40,000,000 allowed$"):
        decode(bomb)


def test_a_jpeg_that_claims_4_billion_pixels_is_refused_by_its_header() -> None:
    liar = JPEG[: segment(JPEG, b"\xff\xc0").start] + resized_header(JPEG, 65_000, 65_000)
    with pytest.raises(PictureError, match=r"^65000 x 65000 pixels are more than"):
        decode(liar)


def test_the_limit_of_pixels_is_exact() -> None:
    limits = Limits(max_pixels=1200)
    assert decode(encode(noise(40, 30), "PNG"), limits).shape == (8, 8, 3)
    with pytest.raises(PictureError, match=r"^40 x 31 pixels are more than the 1,200 allowed$"):
        decode(encode(noise(40, 31), "PNG"), limits)


def test_a_second_header_cannot_smuggle_pixels_past_the_limit() -> None:
    png = PNG_MAGIC + header(8, 8) + header(9000, 9000) + black(9000, 9000)
    text = chunk(b"tEXt", struct.pack(">II", 8, 8) + b"x\0y")  # where the header should be
    hidden = PNG_MAGIC + text + header(9000, 9000) + black(9000, 9000)
    frame = segment(JPEG, b"\xff\xc0")
    jpeg = JPEG[: frame.stop] + resized_header(JPEG, 9000, 9000) + JPEG[frame.stop :]
    for encoded in (png, jpeg):
        with pytest.raises(PictureError, match=r"^damaged or truncated: several headers$"):
            decode(encoded)
    with pytest.raises(PictureError, match=r"^damaged or truncated: the header gives no size$"):
        decode(hidden)


@pytest.mark.parametrize("size", [(1, 2_000_000), (2_000_000, 1)])
def test_a_strip_that_would_explode_when_resized_is_refused(size: tuple[int, int]) -> None:
    strip = Image.new("L", size)
    reason = rf"^{size[0]} x {size[1]} pixels are too narrow a strip to resize$"
    with pytest.raises(PictureError, match=reason):
        decode(encode(strip, "PNG"))
    with pytest.raises(PictureError, match="too narrow a strip"):
        pictures.fit(np.asarray(strip.convert("RGB")), SHAPE, PREPROCESSING)
    shorter = Image.new("L", (size[0] // 1000 or 1, size[1] // 1000 or 1))
    assert decode(encode(shorter, "PNG")).shape == (8, 8, 3)


def with_scans(count: int, inside: bytes = b"") -> bytes:
    """A progressive JPEG with so many scans: the last of them, a refinement, comes again and again.

    Args:
        inside: put between the scans.
    """
    first = PROGRESSIVE.split(b"\xff\xda")
    last_scan = b"\xff\xda" + first[-1].removesuffix(b"\xff\xd9")
    return (
        PROGRESSIVE.removesuffix(b"\xff\xd9") + (inside + last_scan) * (count - len(first) + 1) + b"\xff\xd9"
    )


def test_a_jpeg_may_have_100_scans_and_not_101() -> None:
    assert decode(with_scans(100)).shape == (8, 8, 3)
    with pytest.raises(PictureError, match=r"^101 progressive scans are more than the 100 allowed$"):
        decode(with_scans(101))


def test_the_limit_of_scans_is_the_callers() -> None:
    scans = PROGRESSIVE.count(b"\xff\xda")
    assert 5 < scans < 20
    decode(PROGRESSIVE, Limits(max_scans=scans))
    with pytest.raises(
        PictureError, match=rf"^{scans} progressive scans are more than the {scans - 1} allowed"
    ):
        decode(PROGRESSIVE, Limits(max_scans=scans - 1))


@pytest.mark.parametrize(
    "inside",
    [
        b"\xff\xfe\x00\x04\xff\xd9",  # a comment whose text is an end of picture
        b"\xff\xff\xff",  # fill bytes
        b"\xff\xd0\xff\x01",  # markers without a payload
        b"\xff\xd1\xff\xff",  # a restart, which has no payload either
        b"\xff\x02\xff\xff",  # an undefined marker, as if a payload of 65,535 bytes followed
        b"\xff\xe1\x00\x00",  # a segment that claims to be shorter than its own length
    ],
    ids=["comment", "fill", "bare", "restart", "undefined", "short"],
)
def test_scans_cannot_hide_from_being_counted(inside: bytes) -> None:
    with pytest.raises(PictureError, match=r"^150 progressive scans"):
        decode(with_scans(150, inside))


def test_two_bytes_that_look_like_a_scan_inside_a_segment_are_none() -> None:
    thumbnails = b"\xff\xe2\x02\x02" + b"\xff\xda" * 256
    encoded = JPEG[:2] + thumbnails + JPEG[2:]
    np.testing.assert_array_equal(decode(encoded), decode(JPEG))


def test_the_tables_of_a_jpeg_may_come_before_its_frame_header() -> None:
    frame, tables = segment(JPEG, b"\xff\xc0"), JPEG.index(b"\xff\xc4")
    scan = JPEG.index(b"\xff\xda")
    assert frame.stop == tables
    encoded = JPEG[: frame.start] + JPEG[tables:scan] + JPEG[frame] + JPEG[scan:]
    np.testing.assert_array_equal(decode(encoded), decode(JPEG))


def test_random_bytes_behind_a_magic_are_refused() -> None:
    generator = random.Random(0)
    for magic in (b"\xff\xd8\xff", PNG_MAGIC, PNG_MAGIC + b"\0\0\0\rIHDR"):
        for length in (1, 10, 100, 1000, 10_000):
            for _ in range(20):
                with pytest.raises(PictureError):
                    decode(magic + generator.randbytes(length))


def mutated(encoded: bytes, generator: random.Random) -> bytes:
    """Change, cut out, repeat or insert a few bytes, the first magic bytes left alone."""
    damaged = bytearray(encoded)
    for _ in range(generator.randint(1, 4)):
        position = generator.randrange(3, len(damaged))
        stop = position + generator.randint(1, 16)
        match generator.randrange(4):
            case 0:
                damaged[position] = generator.choice((0, 0xFF, generator.randrange(256)))
            case 1:
                del damaged[position:stop]
            case 2:
                damaged[position:position] = damaged[position:stop]
            case _:
                damaged[position:position] = generator.randbytes(stop - position)
    return bytes(damaged)


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    tags[ExifTags.Base.Software] = "a camera"
    return tags


SAMPLES = {
    "JPEG": encode(noise(), "JPEG", exif=exif()),
    "JPEG progressive": PROGRESSIVE,
    "JPEG CMYK": encode(noise().convert("CMYK"), "JPEG"),
    "MPO": encode(noise(), "MPO", save_all=True, append_images=[noise(20, 20)]),
    "PNG": encode(noise(), "PNG", exif=exif()),
    "PNG palette": encode(noise().convert("P"), "PNG", transparency=bytes(range(256))),
    "PNG 16-bit": encode(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG"),
    "PNG animated": encode(noise(), "PNG", save_all=True, append_images=[noise().rotate(90)]),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_mutated_picture_is_decoded_or_refused_and_nothing_else(sample: str) -> None:
    generator = random.Random(sample)
    reasons = []
    for _ in range(300):
        try:
            pixels = decode(mutated(SAMPLES[sample], generator), Limits(max_pixels=10_000))
        except PictureError as error:
            reasons.append(str(error))
        else:
            assert pixels.shape == (8, 8, 3)
            assert pixels.dtype == np.uint8
    assert reasons
    assert [reason for reason in reasons if not REASONS.fullmatch(reason)] == []


def test_png_text_that_unpacks_to_gigabytes_is_refused() -> None:
    pack = zlib.compressobj(9)
    text = b"".join(pack.compress(bytes(1 << 20)) for _ in range(100)) + pack.flush()
    bomb = chunk(b"zTXt", b"comment\0\0" + text)
    start = PNG.index(b"IDAT") - 4
    with pytest.raises(PictureError, match=r"^damaged or truncated: "):
        decode(PNG[:start] + bomb * 10 + PNG[start:])
