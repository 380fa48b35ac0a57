"""The server's own JPEG decoder gives the pixels that training and export saw, of whatever file."""

import io

import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2
from server.processing import jpeg
from tests.encoding import encode, exif

SIZES_PX = [(500, 375), (501, 377), (333, 500), (224, 224), (17, 13), (1, 1), (640, 97)]
SUBSAMPLINGS = (0, 1, 2)  # Pillow's names of 4:4:4, 4:2:2 and 4:2:0


def photograph(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, as a camera gives them."""
    random = np.random.default_rng(seed)
    smooth = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
    pixels = np.asarray(smooth.resize((width_px, height_px), Image.Resampling.BICUBIC), np.int16)
    noisy = pixels + random.integers(-12, 13, pixels.shape, np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    return encode(image, "JPEG", **options)


def varied() -> dict[str, bytes]:
    """Fifty files: sizes odd and even, every subsampling, progressive, grey, turned, with profiles."""
    files = {}
    for seed, size in enumerate(SIZES_PX):
        image = photograph(*size, seed)
        for subsampling in SUBSAMPLINGS:
            files[f"{size} {subsampling}"] = encoded(image, subsampling=subsampling, quality=85)
        files[f"{size} progressive"] = encoded(image, progressive=True)
        files[f"{size} grey"] = encoded(image.convert("L"))
    for orientation in range(1, 9):
        files[f"turned {orientation}"] = encoded(photograph(40, 31), exif=exif(orientation))
    files["grey, turned"] = encoded(photograph(40, 31).convert("L"), exif=exif(6))
    files["cmyk"] = encoded(photograph(40, 31).convert("CMYK"))
    files["coarse"] = encoded(photograph(300, 200), quality=5)
    files["fine"] = encoded(photograph(300, 200), quality=100)
    files["profile"] = encoded(photograph(300, 200), icc_profile=b"no profile at all" * 40)
    files["restart markers"] = encoded(photograph(300, 200), restart_marker_rows=1)
    files["trailing film"] = encoded(photograph(300, 200)) + b"\xff\xd8\xff\xe1 and so on" * 100
    return files


FILES = varied()


def test_there_are_fifty_varied_files() -> None:
    assert len(set(FILES.values())) == len(FILES) == 50


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("side_px", "channels"), [(224, 3), (32, 3), (32, 1), (8, 1)])
def test_the_pixels_are_those_of_the_reference(side_px: int, channels: int, scaled: bool) -> None:
    shape = manifest_pb2.Input(height=side_px, width=side_px, channels=channels)
    preprocessing = manifest_pb2.Preprocessing(
        resize_shorter_px=side_px,
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        scaled_decoding=scaled,
    )
    for name, file in FILES.items():
        wanted = pictures.decode(file, shape, preprocessing)
        own = pictures.decode(file, shape, preprocessing, codec=jpeg.codec)
        assert np.abs(own.astype(int) - wanted).mean() <= 1, name  # of 255
        assert own.shape == wanted.shape


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_before_anything_is_resized_no_pixel_differs(mode: str, divisor: int) -> None:
    large = {
        name: file
        for name, file in FILES.items()
        if (size := pictures.check(file).size)[0] * size[1] > 10_000
    }
    assert len(large) == 30
    for name, file in large.items():
        header = pictures.check(file)
        wanted, own = (codec(file, header, mode, divisor) for codec in (pictures.pillow, jpeg.codec))
        assert own.mode == wanted.mode == mode
        np.testing.assert_array_equal(np.asarray(own), np.asarray(wanted), err_msg=name)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_half_a_file_is_refused_in_the_same_words(kept: float) -> None:
    file = encoded(photograph(300, 200))
    half = file[: int(kept * len(file))]
    with pytest.raises(PictureError) as wanted:
        pictures.pillow(half, pictures.check(half), "RGB", 1)
    with pytest.raises(PictureError) as own:
        jpeg.codec(half, pictures.check(half), "RGB", 1)
    assert str(own.value) == str(wanted.value)


def test_damage_in_the_middle_is_no_worse_than_for_the_reference() -> None:
    random = np.random.default_rng(0)
    file = encoded(photograph(300, 200))
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(file)
        for position in random.integers(0, len(file), 3):
            damaged[position] = random.integers(256)
        outcome = []
        for codec in (pictures.pillow, jpeg.codec):
            try:
                header = pictures.check(bytes(damaged))
                outcome.append(np.asarray(codec(bytes(damaged), header, "RGB", 1)).shape)
            except PictureError as error:
                outcome.append(str(error))
        assert outcome[0] == outcome[1]
        outcomes.add(str(outcome[0]))
    assert len(outcomes) > 1  # some were taken, some refused


def test_other_files_are_left_to_pillow() -> None:
    file = io.BytesIO()
    photograph(20, 10).save(file, "PNG")
    np.testing.assert_array_equal(
        np.asarray(jpeg.codec(file.getvalue(), pictures.check(file.getvalue()), "RGB", 1)),
        np.asarray(photograph(20, 10)),
    )
