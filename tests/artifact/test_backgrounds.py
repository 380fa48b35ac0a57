"""A manifest's background shows through what is transparent, in every form that a PNG file has of that."""

import io

import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from modelzoo.v1 import manifest_pb2
from server.processing import jpeg
from tests.encoding import encode, exif

WHITE, GROUND = "#ffffff", "#10c8ff"
SIDE_PX = 12


def noise(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (SIDE_PX, SIDE_PX, channels), np.uint8)


def palette() -> Image.Image:
    image = Image.fromarray(noise(1)[:, :, 0] % 16).convert("P")
    image.putpalette(np.random.default_rng(1).integers(0, 256, 48, np.uint8).tobytes())
    return image


def decoded(file: bytes, channels: int, background: str) -> np.ndarray:
    shape = manifest_pb2.Input(height=SIDE_PX, width=SIDE_PX, channels=channels)
    preprocessing = manifest_pb2.Preprocessing(
        resize_shorter_px=SIDE_PX,
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        background=background,
    )
    own = pictures.decode(file, shape, preprocessing)
    served = pictures.decode(file, shape, preprocessing, codec=jpeg.codec)
    np.testing.assert_array_equal(own, served)  # training and server
    return own


TRANSPARENT = {
    "RGBA": encode(Image.fromarray(noise(4))),
    "LA": encode(Image.fromarray(noise(2))),
    "palette": encode(palette(), transparency=bytes(range(0, 256, 16))),
    "palette, one colour": encode(palette(), transparency=3),
    "RGB, one colour": encode(
        Image.fromarray(np.where(noise(1) < 128, noise(3), np.uint8(9))), transparency=(9, 9, 9)
    ),
    "grey, one level": encode(Image.fromarray(noise(1)[:, :, 0] // 64), transparency=2),
    "1-bit": encode(Image.fromarray(noise(1)[:, :, 0] < 99), transparency=0),
}


@pytest.mark.parametrize("background", [WHITE, GROUND])
@pytest.mark.parametrize("form", TRANSPARENT)
def test_what_is_transparent_shows_the_background(form: str, background: str) -> None:
    file = TRANSPARENT[form]
    rgba = Image.open(io.BytesIO(file)).convert("RGBA")
    ground = Image.new("RGBA", rgba.size, background)
    wanted = Image.alpha_composite(ground, rgba).convert("RGB")
    made = decoded(file, 3, background)
    assert (
        np.abs(made.astype(int) - np.asarray(wanted)).max() <= 1
    )  # Pillow's two ways round a half differently
    grey = decoded(file, 1, background)[:, :, 0]
    assert np.abs(grey.astype(int) - np.asarray(wanted.convert("L"))).max() <= 1
    assert (decoded(file, 3, "") != made).any()  # as all artifacts do that name no background


def test_the_one_level_of_16_bit_grey_that_is_transparent_shows_the_background() -> None:
    levels = noise(1)[:, :, 0].astype(np.uint16) * 256 + 7
    levels[0] = 40_000
    file = encode(Image.fromarray(levels), transparency=40_000)
    made = decoded(file, 3, GROUND)
    assert (made[0] == (0x10, 0xC8, 0xFF)).all()
    np.testing.assert_array_equal(made[1:, :, 0], np.rint(levels[1:] / 257))
    np.testing.assert_array_equal(decoded(file, 3, "")[0], np.full((SIDE_PX, 3), round(40_000 / 257)))


def test_opaque_pictures_have_the_same_pixels_on_any_background() -> None:
    stream = io.BytesIO()
    Image.fromarray(noise(3)).save(stream, "JPEG")
    for file in (
        encode(Image.fromarray(noise(3))),
        encode(Image.fromarray(noise(1)[:, :, 0])),
        stream.getvalue(),
    ):
        for channels in (1, 3):
            np.testing.assert_array_equal(decoded(file, channels, GROUND), decoded(file, channels, ""))


def test_the_background_is_turned_with_its_picture() -> None:
    pixels = noise(4)
    lying = decoded(encode(Image.fromarray(pixels)), 3, WHITE)
    turned = decoded(encode(Image.fromarray(pixels), exif=exif(6)), 3, WHITE)
    np.testing.assert_array_equal(turned, np.rot90(lying, -1))
