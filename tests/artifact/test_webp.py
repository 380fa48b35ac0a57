"""The header of a WebP file is read as Pillow reads it, within bounds, and damaged ones are refused."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from artifact import webp
from artifact.errors import PictureError
from tests.encoding import encode


def encoded(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
    return encode(Image.fromarray(pixels), "WEBP", **options)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (5000, 2), (16383, 1)])
def test_the_size_is_what_pillow_says(size: tuple[int, int], lossless: bool, mode: str) -> None:
    file = encoded(size, mode, lossless=lossless)
    found = webp.read(file)
    with Image.open(io.BytesIO(file)) as opened:
        assert (found.width_px, found.height_px) == opened.size == size
    assert webp.is_webp(file)


def test_of_an_animation_the_canvas_counts() -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    assert webp.read(stream.getvalue())[:2] == (40, 30)


def test_metadata_are_found() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = webp.read(encoded((8, 8), exif=exif, xmp=b"<x/>"))
    assert found.exif.removeprefix(b"Exif\0\0") == exif.tobytes().removeprefix(b"Exif\0\0")
    assert found.xmp == b"<x/>"


def test_of_several_metadata_the_first_count_and_of_long_ones_the_beginning() -> None:
    pixels = encoded((8, 8), exif=Image.Exif())[12:30]  # the header of an extended file
    chunks = b"".join(
        struct.pack("<4sI", name, len(content)) + content
        for name, content in ((b"EXIF", b"first."), (b"EXIF", b"second"), (b"XMP ", b"x" * 1_000_000))
    )
    found = webp.read(struct.pack("<4sI4s", b"RIFF", 4 + len(pixels + chunks), b"WEBP") + pixels + chunks)
    assert (found.exif, found.xmp) == (b"first.", b"x" * 65_536)


@pytest.mark.parametrize("kept", [12, 16, 20, 24, 25])
def test_a_header_that_is_cut_off_gives_no_size(kept: int) -> None:
    file = encoded((64, 64))[:kept]
    if kept < 20:
        assert webp.read(file)[:2] == (0, 0)
    else:
        with pytest.raises(PictureError, match="the header gives no size"):
            webp.read(file)


def test_a_file_of_many_chunks_is_refused() -> None:
    first = encoded((8, 8), exif=Image.Exif().tobytes() or b"x")
    chunks = first[12:30] + struct.pack("<4sI", b"JUNK", 0) * 10_000
    file = struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WEBP") + chunks
    with pytest.raises(PictureError, match="more than 4,096 chunks"):
        webp.read(file)
