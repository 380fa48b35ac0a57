"""A picture is turned, or refused, by one rule: in training, in export and in the server."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from artifact import pictures
from artifact.errors import PictureError
from export.data import folders
from export.data.datasets import DatasetError
from export.data.folders import Files
from modelzoo.v1 import manifest_pb2
from server.processing import jpeg
from tests.encoding import TURNS, encode, exif

PREPROCESSING = manifest_pb2.Preprocessing(
    resize_shorter_px=16, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
)
SHAPE = manifest_pb2.Input(height=16, width=16, channels=3)

ATTRIBUTE = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'
ELEMENT = "<x:xmpmeta><rdf:Description><tiff:Orientation>{}</tiff:Orientation></rdf:Description></x:xmpmeta>"


def picture() -> Image.Image:
    """Smooth, square, and the same in no two orientations."""
    rows, columns = np.mgrid[:16, :16]
    return Image.fromarray(np.stack([rows * 16, columns * 8, rows * columns], axis=2).astype(np.uint8))


def in_jpeg(**options: object) -> bytes:
    return encode(picture(), "JPEG", quality=95, subsampling=0, **options)


def in_png(text: str = "", *, packed: bool = False, **options: object) -> bytes:
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_itxt("XML:com.adobe.xmp", text, zip=packed)
    return encode(picture(), pnginfo=info, **options)


SAYING: dict[str, Callable[[int], bytes]] = {
    "JPEG, EXIF": lambda turn: in_jpeg(exif=exif(turn)),
    "JPEG, XMP attribute": lambda turn: in_jpeg(xmp=ATTRIBUTE.format(turn).encode()),
    "JPEG, XMP element": lambda turn: in_jpeg(xmp=ELEMENT.format(turn).encode()),
    "JPEG, EXIF before XMP": lambda turn: in_jpeg(exif=exif(turn), xmp=ATTRIBUTE.format(3).encode()),
    "JPEG, progressive": lambda turn: in_jpeg(exif=exif(turn), progressive=True),
    "PNG, eXIf": lambda turn: in_png(exif=exif(turn)),
    "PNG, XMP attribute": lambda turn: in_png(ATTRIBUTE.format(turn)),
    "PNG, XMP element": lambda turn: in_png(ELEMENT.format(turn)),
    "PNG, XMP packed": lambda turn: in_png(ELEMENT.format(turn), packed=True),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("form", SAYING)
def test_training_and_server_turn_a_picture_alike(form: str, turn: int, tmp_path: Path) -> None:
    file = SAYING[form](turn)
    (tmp_path / "picture").write_bytes(file)
    trained = Files([tmp_path / "picture"], np.zeros(1, np.int64)).fitted(SHAPE, PREPROCESSING).images[0]
    served = pictures.decode(file, SHAPE, PREPROCESSING, codec=jpeg.codec)
    np.testing.assert_array_equal(served, trained)
    upright = pictures.decode(in_png() if form.startswith("PNG") else in_jpeg(), SHAPE, PREPROCESSING)
    difference = np.abs(served.astype(int) - TURNS[turn](upright))
    assert difference.max() <= (0 if "progressive" not in form else 1)


def frame(marker: int, bits: int) -> bytes:
    """A JPEG file with a frame header of another kind."""
    file = in_jpeg()
    position = file.index(b"\xff\xc0")
    return (
        file[: position + 1]
        + bytes([marker, *file[position + 2 : position + 4], bits])
        + file[position + 5 :]
    )


REFUSED = {
    "12-bit JPEG": frame(0xC1, 12),
    "lossless JPEG": frame(0xC3, 8),
    "arithmetic-coded JPEG": frame(0xC9, 8),
    "hierarchical JPEG": frame(0xC5, 8),
}


@pytest.mark.parametrize("words", REFUSED)
def test_training_and_server_refuse_a_picture_in_the_same_words(words: str, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(REFUSED[words])
    with pytest.raises(DatasetError) as trained:
        Files([tmp_path / "picture"], np.zeros(1, np.int64)).fitted(SHAPE, PREPROCESSING)
    with pytest.raises(PictureError, match=words) as served:
        pictures.decode(REFUSED[words], SHAPE, PREPROCESSING, codec=jpeg.codec)
    assert str(trained.value) == f"{tmp_path / 'picture'}: {served.value}"
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(20):
            (tmp_path / "pets" / label / f"{index}.jpg").write_bytes(REFUSED[words])
    with pytest.raises(DatasetError, match=rf"40 not usable \({served.value}\), 0.jpg for one$"):
        folders.load(tmp_path / "pets", seed=0)
