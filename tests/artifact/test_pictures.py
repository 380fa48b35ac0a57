"""Pictures become the pixels that Pillow and torchvision make of them, and exactly the right ones."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from artifact import pictures
from artifact.headers import Header
from modelzoo.v1 import manifest_pb2
from tests.encoding import TURNS, encode, exif

MODES = {1: "L", 3: "RGB"}
RESAMPLING = {
    manifest_pb2.INTERPOLATION_BILINEAR: InterpolationMode.BILINEAR,
    manifest_pb2.INTERPOLATION_BICUBIC: InterpolationMode.BICUBIC,
}
# Width and height: to a shorter side of 14, most come out between two pixels and between two crops.
SIZES_PX = [(40, 30), (37, 30), (31, 47), (31, 48), (30, 31), (14, 14), (9, 7), (90, 15), (15, 90)]


def noise(width_px: int, height_px: int, channels: int, seed: int = 0) -> np.ndarray:
    """Smooth noise, uint8 [H, W, C]: blocks of four, so that JPEG has something to keep."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height_px // 2 + 1, width_px // 2 + 1, channels), np.uint8)
    return coarse.repeat(2, axis=0).repeat(2, axis=1)[:height_px, :width_px]


def palette_image(width_px: int, height_px: int) -> Image.Image:
    image = Image.fromarray(noise(width_px, height_px, 1)[:, :, 0]).convert("P")
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    return image


# A picture in every form that a file can have, and the RGB or grey picture that it shows.
FORMS: dict[str, Callable[[int, int], bytes]] = {
    "JPEG grey": lambda w, h: encode(Image.fromarray(noise(w, h, 1)[:, :, 0]), "JPEG"),
    "JPEG RGB": lambda w, h: encode(Image.fromarray(noise(w, h, 3)), "JPEG", quality=90),
    "JPEG CMYK": lambda w, h: encode(Image.fromarray(noise(w, h, 4), "CMYK"), "JPEG", quality=90),
    "JPEG progressive": lambda w, h: encode(Image.fromarray(noise(w, h, 3)), "JPEG", progressive=True),
    "PNG grey": lambda w, h: encode(Image.fromarray(noise(w, h, 1)[:, :, 0]), "PNG"),
    "PNG RGB": lambda w, h: encode(Image.fromarray(noise(w, h, 3)), "PNG"),
    "PNG RGBA": lambda w, h: encode(Image.fromarray(noise(w, h, 4)), "PNG"),
    "PNG palette": lambda w, h: encode(palette_image(w, h), "PNG"),
    "PNG palette, transparent": lambda w, h: encode(
        palette_image(w, h), "PNG", transparency=bytes(range(256))
    ),
    "PNG LA": lambda w, h: encode(Image.fromarray(noise(w, h, 2)), "PNG"),
    "WebP": lambda w, h: encode(Image.fromarray(noise(w, h, 3)), "WEBP"),
    "WebP lossless": lambda w, h: encode(Image.fromarray(noise(w, h, 3)), "WEBP", lossless=True),
    "WebP RGBA": lambda w, h: encode(Image.fromarray(noise(w, h, 4)), "WEBP", lossless=True, exact=True),
    "PNG 1-bit": lambda w, h: encode(Image.fromarray(noise(w, h, 1)[:, :, 0]).convert("1"), "PNG"),
}


def exact(
    width_px: int, height_px: int, channels: int
) -> tuple[manifest_pb2.Input, manifest_pb2.Preprocessing]:
    """An input of a picture's own size: nothing is resampled."""
    return manifest_pb2.Input(
        height=height_px, width=width_px, channels=channels
    ), manifest_pb2.Preprocessing(
        resize_shorter_px=min(width_px, height_px), interpolation=manifest_pb2.INTERPOLATION_BILINEAR
    )


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 in 16-bit fixed point, as Pillow has it; uint8 [H, W, 3] to [H, W, 1]."""
    weighted = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[:, :, np.newaxis]


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_decoding_gives_what_pillow_and_torchvision_give(
    form: str, channels: int, interpolation: "manifest_pb2.Interpolation.ValueType"
) -> None:
    height_px, width_px, shorter_px = 13, 10, 14
    shape = manifest_pb2.Input(height=height_px, width=width_px, channels=channels)
    preprocessing = manifest_pb2.Preprocessing(resize_shorter_px=shorter_px, interpolation=interpolation)
    fitted = transforms.Compose(
        [
            transforms.Resize(shorter_px, RESAMPLING[interpolation]),
            transforms.CenterCrop((height_px, width_px)),
        ]
    )
    for size in SIZES_PX:
        encoded = FORMS[form](*size)
        image = Image.open(io.BytesIO(encoded))
        if "transparency" in image.info:
            image = image.convert("RGBA")  # else Pillow warns
        wanted = np.asarray(fitted(image.convert(MODES[channels]))).reshape(height_px, width_px, channels)
        pixels = pictures.decode(encoded, shape, preprocessing)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, wanted, err_msg=f"{size}")


@pytest.mark.parametrize("size", SIZES_PX)
def test_lossless_files_give_exactly_their_pixels(size: tuple[int, int]) -> None:
    rgb_shape, grey_shape = exact(*size, 3), exact(*size, 1)
    rgb, grey = noise(*size, 3), noise(*size, 1)
    np.testing.assert_array_equal(pictures.decode(FORMS["PNG RGB"](*size), *rgb_shape), rgb)
    np.testing.assert_array_equal(pictures.decode(FORMS["PNG RGB"](*size), *grey_shape), luma(rgb))
    np.testing.assert_array_equal(pictures.decode(FORMS["WebP lossless"](*size), *rgb_shape), rgb)
    np.testing.assert_array_equal(pictures.decode(FORMS["PNG grey"](*size), *grey_shape), grey)
    np.testing.assert_array_equal(
        pictures.decode(FORMS["PNG grey"](*size), *rgb_shape), grey.repeat(3, axis=2)
    )


def test_transparency_is_dropped_and_the_colours_beneath_it_stay() -> None:
    rgb_shape, grey_shape = exact(16, 12, 3), exact(16, 12, 1)
    rgba, grey_alpha = noise(16, 12, 4), noise(16, 12, 2)
    np.testing.assert_array_equal(pictures.decode(FORMS["PNG RGBA"](16, 12), *rgb_shape), rgba[:, :, :3])
    np.testing.assert_array_equal(pictures.decode(FORMS["WebP RGBA"](16, 12), *rgb_shape), rgba[:, :, :3])
    np.testing.assert_array_equal(pictures.decode(FORMS["PNG LA"](16, 12), *grey_shape), grey_alpha[:, :, :1])
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    shown = palette[noise(16, 12, 1)[:, :, 0]]
    for form in ("PNG palette", "PNG palette, transparent"):
        np.testing.assert_array_equal(pictures.decode(FORMS[form](16, 12), *rgb_shape), shown)
        np.testing.assert_array_equal(pictures.decode(FORMS[form](16, 12), *grey_shape), luma(shown))
    one_colour_transparent = encode(Image.fromarray(rgba[:, :, :3]), "PNG", transparency=(1, 2, 3))
    np.testing.assert_array_equal(pictures.decode(one_colour_transparent, *rgb_shape), rgba[:, :, :3])


def test_cmyk_is_ink_on_white_paper() -> None:
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        encoded = encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
        pixels = pictures.decode(encoded, *exact(16, 16, 3))
        assert np.abs(pixels.astype(int) - colour).max() <= 2  # JPEG rounds


def test_one_bit_pixels_become_black_and_white() -> None:
    bits = np.random.default_rng(0).random((12, 16)) < 0.5
    encoded = encode(Image.fromarray(bits), "PNG")
    wanted = np.where(bits, 255, 0)[:, :, np.newaxis]
    np.testing.assert_array_equal(pictures.decode(encoded, *exact(16, 12, 1)), wanted)
    np.testing.assert_array_equal(pictures.decode(encoded, *exact(16, 12, 3)), wanted.repeat(3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_divided_by_257_and_rounded(channels: int) -> None:
    levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    encoded = encode(Image.fromarray(levels), "PNG")
    pixels = pictures.decode(encoded, *exact(256, 256, channels))
    wanted = np.rint(levels / 257).astype(np.uint8)  # no tie: 257 is odd
    np.testing.assert_array_equal(pixels, wanted[:, :, np.newaxis].repeat(channels, axis=2))
    assert pixels[0, 0, 0] == 0
    assert pixels[0, 128, 0] == 0
    assert pixels[0, 129, 0] == 1
    assert pixels[1, 0, 0] == 1  # 256; Pillow's own conversion says 255 from here on
    assert pixels[1, 1, 0] == 1
    assert pixels[128, 127, 0] == 128  # 32,895 = 128 x 257 - 1
    assert pixels[255, 255, 0] == 255


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_upright(file_format: str, orientation: int) -> None:
    image = Image.fromarray(noise(20, 12, 3))
    lying = pictures.decode(encode(image, file_format), *exact(20, 12, 3))
    wanted = TURNS[orientation](lying)
    height_px, width_px, _ = wanted.shape
    upright = pictures.decode(
        encode(image, file_format, exif=exif(orientation)), *exact(width_px, height_px, 3)
    )
    np.testing.assert_array_equal(upright, wanted)


@pytest.mark.parametrize("orientation", [3, 6])
def test_16_bit_grey_is_turned_upright_too(orientation: int) -> None:
    grey = noise(20, 12, 1)
    encoded = encode(Image.fromarray(grey[:, :, 0].astype(np.uint16) * 257), "PNG", exif=exif(orientation))
    wanted = TURNS[orientation](grey)
    height_px, width_px, _ = wanted.shape
    np.testing.assert_array_equal(pictures.decode(encoded, *exact(width_px, height_px, 1)), wanted)


def test_an_unknown_orientation_is_taken_for_upright() -> None:
    pixels = noise(20, 12, 3)
    encoded = encode(Image.fromarray(pixels), "PNG", exif=exif(9))
    np.testing.assert_array_equal(pictures.decode(encoded, *exact(20, 12, 3)), pixels)


def test_a_progressive_jpeg_gives_the_pixels_of_the_plain_one() -> None:
    image = Image.fromarray(noise(40, 30, 3))
    plain, progressive = (encode(image, "JPEG", progressive=flag) for flag in (False, True))
    assert plain != progressive
    shape = exact(40, 30, 3)
    np.testing.assert_array_equal(pictures.decode(progressive, *shape), pictures.decode(plain, *shape))


def test_of_several_pictures_in_a_file_the_first_is_taken() -> None:
    first, second = (Image.fromarray(noise(20, 12, 3, seed)) for seed in (0, 1))
    both = encode(first, "MPO", save_all=True, append_images=[second])
    shape = exact(20, 12, 3)
    np.testing.assert_array_equal(
        pictures.decode(both, *shape), pictures.decode(encode(first, "JPEG"), *shape)
    )


def test_what_follows_a_jpeg_is_not_looked_at() -> None:
    encoded = FORMS["JPEG RGB"](20, 12)
    film = b"\xff\xda\x00\x02" * (1 << 16)  # phones append one to a photograph; this one looks like scans
    shape = exact(20, 12, 3)
    np.testing.assert_array_equal(pictures.decode(encoded + film, *shape), pictures.decode(encoded, *shape))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES_PX)
def test_fitting_pixels_is_decoding_their_png(size: tuple[int, int], channels: int) -> None:
    pixels = noise(*size, channels)
    encoded = encode(Image.fromarray(pixels.squeeze()), "PNG")
    shape = manifest_pb2.Input(height=11, width=12, channels=channels)
    preprocessing = manifest_pb2.Preprocessing(
        resize_shorter_px=12, interpolation=manifest_pb2.INTERPOLATION_BICUBIC
    )
    fitted = pictures.fit(pixels, shape, preprocessing)
    assert fitted.shape == (11, 12, channels)
    np.testing.assert_array_equal(fitted, pictures.decode(encoded, shape, preprocessing))


def test_odd_exif_neither_refuses_a_picture_nor_fills_the_log() -> None:
    # One entry of four bytes a number, 255 of them, at an offset far behind the end of the file.
    entry = b"\x32\x01" + b"\x02\x00" + b"\xff\x00\x00\x00" + b"\xff\xff\x00\x00"
    odd = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\x01\0" + entry + b"\0\0\0\0"
    encoded = encode(Image.fromarray(noise(20, 12, 3)), "JPEG", exif=odd)
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        Image.open(io.BytesIO(encoded)).getexif().get(ExifTags.Base.Orientation)
    code = (
        "import sys\n"
        "from artifact import pictures\n"
        "from modelzoo.v1 import manifest_pb2\n"
        "shape = manifest_pb2.Input(height=12, width=20, channels=3)\n"
        "fit = manifest_pb2.Preprocessing(resize_shorter_px=12, interpolation=1)\n"
        "sys.stdout.buffer.write(pictures.decode(sys.stdin.buffer.read(), shape, fit).tobytes())\n"
    )
    # In a process of its own: pytest makes errors of warnings, a server does not.
    done = subprocess.run([sys.executable, "-c", code], input=encoded, capture_output=True, check=True)
    assert done.stderr == b""
    plain = encode(Image.fromarray(noise(20, 12, 3)), "JPEG")
    assert done.stdout == pictures.decode(plain, *exact(20, 12, 3)).tobytes()


@pytest.mark.parametrize(
    ("size", "divisor"),
    [((800, 640), 8), ((640, 511), 4), ((320, 256), 4), ((300, 128), 2), ((127, 900), 1)],
)
def test_a_large_jpeg_may_be_decoded_smaller_but_never_below_twice_what_is_needed(
    size: tuple[int, int], divisor: int
) -> None:
    shape = manifest_pb2.Input(height=32, width=32, channels=3)
    preprocessing = manifest_pb2.Preprocessing(
        resize_shorter_px=32, interpolation=manifest_pb2.INTERPOLATION_BILINEAR, scaled_decoding=True
    )
    asked = []

    def codec(
        encoded: bytes, header: Header, mode: str, by: int, background: pictures.Colour | None
    ) -> Image.Image:
        asked.append(by)
        return pictures.pillow(encoded, header, mode, by, background)

    file = io.BytesIO()
    Image.fromarray(noise(12, 10, 3)).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    scaled = pictures.decode(file.getvalue(), shape, preprocessing, codec=codec)
    preprocessing.scaled_decoding = False
    whole = pictures.decode(file.getvalue(), shape, preprocessing, codec=codec)
    assert asked == [divisor, 1]
    assert np.abs(scaled.astype(int) - whole).mean() < 2  # of 255
    assert (scaled != whole).any() == (divisor > 1)


def test_only_a_jpeg_is_decoded_smaller() -> None:
    shape, preprocessing = exact(8, 8, 1)
    preprocessing.scaled_decoding = True
    picture = io.BytesIO()
    Image.fromarray(noise(64, 64, 1)[:, :, 0]).save(picture, "PNG")
    wanted = pictures.decode(picture.getvalue(), shape, preprocessing)
    preprocessing.scaled_decoding = False
    np.testing.assert_array_equal(wanted, pictures.decode(picture.getvalue(), shape, preprocessing))
