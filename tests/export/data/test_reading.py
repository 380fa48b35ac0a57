"""Files are used, or passed over with a reason; all formats become the pixels that a client would send."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from artifact.errors import PictureError
from export.data import reading
from modelzoo.v1 import manifest_pb2

INPUT = manifest_pb2.Input(height=16, width=16, channels=3)
PREPROCESSING = manifest_pb2.Preprocessing(
    resize_shorter_px=16, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
)
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def encoded(file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, file_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})],
)
def test_every_lossless_format_becomes_the_same_input(file_format: str, options: dict[str, object]) -> None:
    found = reading.fit(encoded(file_format, **options), INPUT, PREPROCESSING)
    np.testing.assert_array_equal(found, pictures.fit(PIXELS, INPUT, PREPROCESSING))


def test_of_an_animation_the_first_frame_is_used() -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    found = reading.fit(stream.getvalue(), INPUT, PREPROCESSING)
    assert found.reshape(-1, 3).tolist() == [[255, 0, 0]] * 256


def test_orientation_is_honoured_in_formats_that_only_training_reads() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    turned = reading.fit(encoded("WEBP", lossless=True, exif=exif), INPUT, PREPROCESSING)
    upright = np.rot90(PIXELS, k=-1)
    np.testing.assert_array_equal(turned, pictures.fit(np.ascontiguousarray(upright), INPUT, PREPROCESSING))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<svg/>", r"not usable (none of JPEG, PNG, WebP, BMP, GIF and TIFF, or damaged)"),
        (encoded("BMP")[:200], r"not usable (none of JPEG, PNG, WebP, BMP, GIF and TIFF, or damaged)"),
        (
            encoded("WEBP")[:200],
            "not usable (damaged or truncated: what follows the header cannot be decoded)",
        ),
        (
            encoded("PNG")[:300],
            "not usable (damaged or truncated: what follows the header cannot be decoded)",
        ),
    ],
    ids=["empty", "text", "half a BMP", "half a WebP", "half a PNG"],
)
def test_a_file_that_cannot_be_used_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    found = reading.read([(tmp_path, 0)])
    assert (list(found.used), found.passed_over) == ([], {path: reason})
    assert found.report() == f"0 pictures used, 1 files passed over: 1 {reason}, a.jpg for one"


def test_a_profile_that_pillow_cannot_read_keeps_no_picture_out(tmp_path: Path) -> None:
    jpeg = encoded("JPEG")
    profile = b"\xff\xe2" + (2 + 12).to_bytes(2, "big") + b"ICC_PROFILE\0"
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + profile + jpeg[2:])
    Image.new("L", (40, 30)).save(tmp_path / "b.jpg")
    found = reading.read([(tmp_path, 0)])
    assert [(one.path.name, one.is_grey) for one in found.used] == [("a.jpg", False), ("b.jpg", True)]


def test_a_colour_space_that_no_network_takes_is_a_reason(tmp_path: Path) -> None:
    Image.new("LAB", (8, 8)).save(tmp_path / "a.tiff")
    grey = manifest_pb2.Input(height=16, width=16, channels=1)
    with pytest.raises(PictureError, match="none of JPEG, PNG"):
        reading.fit((tmp_path / "a.tiff").read_bytes(), grey, PREPROCESSING)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError):
        reading.read([(tmp_path, 0)])


def test_a_picture_too_large_for_the_server_is_passed_over(tmp_path: Path) -> None:
    Image.new("1", (8000, 6000)).save(tmp_path / "a.tiff", compression="group4")
    [reason] = reading.read([(tmp_path, 0)]).passed_over.values()
    assert reason == "not usable (8000 x 6000 pixels are more than 40,000,000)"
    with pytest.raises(PictureError, match="8000 x 6000 pixels are more than"):
        reading.fit((tmp_path / "a.tiff").read_bytes(), INPUT, PREPROCESSING)


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("WEBP"))
    (tmp_path / "b.PNG").write_bytes(encoded("JPEG"))
    found = reading.read([(tmp_path, 3)])
    assert [(one.path.name, one.label, one.shorter_px, one.is_grey) for one in found.used] == [
        ("a.jpg", 3, 30, False), ("b.PNG", 3, 30, False),
    ]  # fmt: skip
