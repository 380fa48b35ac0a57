"""Pictures of every size come out as the libraries resize them that networks are trained with.

OpenCV is not among this project's packages; `tests/opencv.py` has its formulas once more.
"""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from artifact import pictures
from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2
from tests.encoding import encode
from tests.opencv import opencv_linear, opencv_nearest

SIZES_PX = [
    (40, 30),
    (37, 30),
    (31, 47),
    (30, 31),
    (14, 13),
    (9, 7),
    (90, 15),
    (15, 90),
    (28, 26),
    (1, 1),
    (2, 1),
]
SHAPE = manifest_pb2.Input(height=13, width=14, channels=3)
PILLOW = {
    manifest_pb2.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
    manifest_pb2.INTERPOLATION_NEAREST: Image.Resampling.NEAREST,
}


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture(scope="module")
def patches(photographs: list[Image.Image]) -> list[Image.Image]:
    """A piece of a photograph in every size."""
    return [
        photographs[index % 2].crop((40 + index, 60, 40 + index + width_px, 60 + height_px))
        for index, (width_px, height_px) in enumerate(SIZES_PX)
    ]


def decoded(
    image: Image.Image, shape: manifest_pb2.Input = SHAPE, /, **preprocessing: object
) -> pictures.Pixels:
    return pictures.decode(encode(image), shape, manifest_pb2.Preprocessing(**preprocessing))


OPENCV = {
    manifest_pb2.INTERPOLATION_OPENCV_BILINEAR: opencv_linear,
    manifest_pb2.INTERPOLATION_OPENCV_NEAREST: opencv_nearest,
}


@pytest.mark.parametrize("interpolation", PILLOW)
def test_a_stretched_picture_is_what_pillow_resizes(
    interpolation: "manifest_pb2.Interpolation.ValueType", patches: list[Image.Image]
) -> None:
    for patch in patches:
        wanted = patch.resize((14, 13), PILLOW[interpolation])
        made = decoded(patch, resize_mode=manifest_pb2.RESIZE_MODE_STRETCH, interpolation=interpolation)
        np.testing.assert_array_equal(made, np.asarray(wanted), err_msg=f"{patch.size}")


@pytest.mark.parametrize("interpolation", OPENCV)
def test_opencv_s_filters_give_its_very_pixels(
    interpolation: "manifest_pb2.Interpolation.ValueType", patches: list[Image.Image]
) -> None:
    for patch in patches:
        wanted = OPENCV[interpolation](np.asarray(patch), 14, 13)
        made = decoded(patch, resize_mode=manifest_pb2.RESIZE_MODE_STRETCH, interpolation=interpolation)
        np.testing.assert_array_equal(made, wanted, err_msg=f"{patch.size}")
        assert made.flags.c_contiguous


def test_opencv_s_filters_are_known_by_hand() -> None:
    """Half-pixel centres: 0 and 255 to four pixels are 0, a quarter, three quarters, 255. No antialias."""
    row = Image.fromarray(np.array([[0, 255]], np.uint8))
    grey = manifest_pb2.Input(height=1, width=4, channels=1)
    stretched = {
        "resize_mode": manifest_pb2.RESIZE_MODE_STRETCH,
        "interpolation": manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
    }
    assert decoded(row, grey, **stretched).ravel().tolist() == [0, 64, 191, 255]
    comb = Image.fromarray(np.array([[0, 0, 0, 255] * 4], np.uint8))
    assert decoded(comb, grey, **stretched).ravel().tolist() == [0, 0, 0, 0]  # Pillow averages: 64
    stretched["interpolation"] = manifest_pb2.INTERPOLATION_OPENCV_NEAREST
    assert decoded(row, grey, **stretched).ravel().tolist() == [0, 0, 255, 255]


def test_the_shorter_side_is_rounded_as_paddleclas_does(patches: list[Image.Image]) -> None:
    for patch in patches:
        ratio = 16 / min(patch.size)
        width_px, height_px = (round(side_px * ratio) for side_px in patch.size)
        whole = opencv_linear(np.asarray(patch), width_px, height_px)
        top, left = (height_px - 13) // 2, (width_px - 14) // 2
        made = decoded(
            patch,
            resize_mode=manifest_pb2.RESIZE_MODE_SHORTER_ROUNDED,
            resize_shorter_px=16,
            interpolation=manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
        )
        np.testing.assert_array_equal(made, whole[top : top + 13, left : left + 14], err_msg=f"{patch.size}")


@pytest.mark.parametrize("interpolation", [*PILLOW, *OPENCV])
def test_a_letterbox_holds_the_whole_picture_within_its_fill(
    interpolation: "manifest_pb2.Interpolation.ValueType", patches: list[Image.Image]
) -> None:
    for patch in patches:
        ratio = min(14 / patch.width, 13 / patch.height)
        width_px, height_px = (max(1, round(side_px * ratio)) for side_px in patch.size)
        inner = (
            np.asarray(patch.resize((width_px, height_px), PILLOW[interpolation]))
            if interpolation in PILLOW
            else OPENCV[interpolation](np.asarray(patch), width_px, height_px)
        )
        wanted = np.tile(np.array([114, 0, 200], np.uint8), (13, 14, 1))
        # As YOLO's letterbox: round(border / 2 - 0.1) above and to the left.
        top, left = round((13 - height_px) / 2 - 0.1), round((14 - width_px) / 2 - 0.1)
        wanted[top : top + height_px, left : left + width_px] = inner
        made = decoded(
            patch,
            resize_mode=manifest_pb2.RESIZE_MODE_LETTERBOX,
            fill="#7200c8",
            interpolation=interpolation,
        )
        np.testing.assert_array_equal(made, wanted, err_msg=f"{patch.size}")


def test_a_grey_letterbox_has_a_grey_fill() -> None:
    wide = Image.fromarray(np.full((2, 8), 7, np.uint8))
    made = decoded(
        wide,
        manifest_pb2.Input(height=4, width=4, channels=1),
        resize_mode=manifest_pb2.RESIZE_MODE_LETTERBOX,
        fill="#ff0000",
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
    )
    luma = ImageOps.grayscale(Image.new("RGB", (1, 1), "#ff0000")).getpixel((0, 0))
    assert made[:, 0, 0].tolist() == [luma, luma, 7, luma] or made[:, 0, 0].tolist() == [luma, 7, luma, luma]


def test_a_strip_costs_no_more_than_the_input_where_both_sides_are_fitted() -> None:
    """A strip would be too long with its shorter side resized; stretched or letterboxed it is served."""
    strip = Image.new("RGB", (60_000, 2), (1, 2, 3))
    shorter = {"resize_shorter_px": 2_000, "interpolation": manifest_pb2.INTERPOLATION_BILINEAR}
    with pytest.raises(PictureError, match="too narrow a strip"):
        decoded(strip, **shorter)
    for mode, fill in (
        (manifest_pb2.RESIZE_MODE_STRETCH, ""),
        (manifest_pb2.RESIZE_MODE_LETTERBOX, "#000000"),
    ):
        for interpolation in (*PILLOW, *OPENCV):
            made = decoded(strip, resize_mode=mode, fill=fill, interpolation=interpolation)
            assert made[6].tolist() == [[1, 2, 3]] * 14


def test_scaled_decoding_keeps_twice_the_input_s_longer_side(photographs: list[Image.Image]) -> None:
    stream = io.BytesIO()
    photographs[0].save(stream, "JPEG", quality=95)
    shape = manifest_pb2.Input(height=20, width=40, channels=3)
    preprocessing = manifest_pb2.Preprocessing(
        resize_mode=manifest_pb2.RESIZE_MODE_STRETCH,
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        scaled_decoding=True,
    )
    header = pictures.check(stream.getvalue())
    assert header.size == (640, 427)
    # 427 / 4 is above 2 x 40, 427 / 8 is not.
    assert pictures.cost(header, shape, preprocessing).held_px == 160 * 107
    scaled = pictures.decode(stream.getvalue(), shape, preprocessing)
    preprocessing.scaled_decoding = False
    whole = pictures.decode(stream.getvalue(), shape, preprocessing)
    assert np.abs(scaled.astype(int) - whole).mean() < 3
