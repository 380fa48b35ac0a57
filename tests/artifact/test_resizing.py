"""Pictures of every size come out as the libraries resize them that networks are trained with.

OpenCV is not among this project's packages; `tests/opencv.py` has its formulas once more.
"""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from artifact import pictures
from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2
from tests.encoding import encode
from tests.opencv import opencv_area, opencv_cubic, opencv_lanczos, opencv_linear, opencv_nearest

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
    manifest_pb2.INTERPOLATION_LANCZOS: Image.Resampling.LANCZOS,
    manifest_pb2.INTERPOLATION_BOX: Image.Resampling.BOX,
    manifest_pb2.INTERPOLATION_HAMMING: Image.Resampling.HAMMING,
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
    manifest_pb2.INTERPOLATION_OPENCV_BICUBIC: opencv_cubic,
    manifest_pb2.INTERPOLATION_OPENCV_LANCZOS: opencv_lanczos,
}
AREA_SIZES_PX = [
    (14, 13),
    (28, 26),
    (42, 39),
    (28, 39),
    (29, 27),
    (15, 13),
    (90, 100),
]  # of pictures to be 14 x 13


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
    within = int(interpolation == manifest_pb2.INTERPOLATION_OPENCV_BICUBIC)  # sums up in another order
    for patch in patches:
        wanted = OPENCV[interpolation](np.asarray(patch), 14, 13).astype(int)
        made = decoded(patch, resize_mode=manifest_pb2.RESIZE_MODE_STRETCH, interpolation=interpolation)
        np.testing.assert_allclose(made, wanted, rtol=0, atol=within, err_msg=f"{patch.size}")
        assert (made != wanted).mean() < 0.01
        assert made.flags.c_contiguous


@pytest.mark.parametrize("size_px", AREA_SIZES_PX)
def test_opencv_s_area_is_the_mean_of_what_a_pixel_covers(
    size_px: tuple[int, int], photographs: list[Image.Image]
) -> None:
    patch = photographs[0].crop((40, 60, 40 + size_px[0], 60 + size_px[1]))
    made = decoded(
        patch,
        resize_mode=manifest_pb2.RESIZE_MODE_STRETCH,
        interpolation=manifest_pb2.INTERPOLATION_OPENCV_AREA,
    )
    np.testing.assert_array_equal(made, opencv_area(np.asarray(patch), 14, 13))


def test_opencv_s_area_blends_across_edges_alone_where_a_side_grows() -> None:
    """Two pixels to five: the third lies half in each. OpenCV 4.14 and 5.0 give these numbers."""
    row = Image.fromarray(np.array([[0, 255]], np.uint8))
    made = decoded(
        row,
        manifest_pb2.Input(height=1, width=5, channels=1),
        resize_mode=manifest_pb2.RESIZE_MODE_STRETCH,
        interpolation=manifest_pb2.INTERPOLATION_OPENCV_AREA,
    )
    assert made.ravel().tolist() == [0, 0, 128, 255, 255]


def test_a_stretched_picture_may_be_cropped(patches: list[Image.Image]) -> None:
    """As torchvision's Resize((18, 21)) and CenterCrop((13, 14)): 2.5 and 3.5 are rounded to even."""
    for patch in patches:
        wanted = patch.resize((21, 18), Image.Resampling.BILINEAR).crop((4, 2, 18, 15))
        made = decoded(
            patch,
            resize_mode=manifest_pb2.RESIZE_MODE_STRETCH,
            resize_height_px=18,
            resize_width_px=21,
            interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        )
        np.testing.assert_array_equal(made, np.asarray(wanted), err_msg=f"{patch.size}")


def test_a_line_of_text_begins_at_the_left_and_is_as_high_as_the_input(patches: list[Image.Image]) -> None:
    """As PaddleOCR's resize_norm_img: the width is rounded up, and cut to the input's by stretching."""
    shape = manifest_pb2.Input(height=9, width=20, channels=3)
    for patch in patches:
        width_px = min(20, math.ceil(9 * (patch.width / patch.height)))
        wanted = np.full((9, 20, 3), 128, np.uint8)
        wanted[:, :width_px] = opencv_linear(np.asarray(patch), width_px, 9)
        made = decoded(
            patch,
            shape,
            resize_mode=manifest_pb2.RESIZE_MODE_LINE,
            fill="#808080",
            interpolation=manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
        )
        np.testing.assert_array_equal(made, wanted, err_msg=f"{patch.size}")


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
        within = int(interpolation == manifest_pb2.INTERPOLATION_OPENCV_BICUBIC)
        np.testing.assert_allclose(
            made.astype(int), wanted.astype(int), rtol=0, atol=within, err_msg=f"{patch.size}"
        )


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
