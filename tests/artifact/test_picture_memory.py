"""A picture that Pillow gives up is refused in our words, also where it is the memory that is wanting."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2
from tests.encoding import encode

SHAPE = manifest_pb2.Input(height=8, width=8, channels=3)
PREPROCESSING = manifest_pb2.Preprocessing(
    resize_shorter_px=8, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
)


def scribbled(encoded: bytes) -> bytes:
    """A PNG whose compressed pixels are overwritten with what is none."""
    start = encoded.index(b"IDAT") + 20
    return encoded[:start] + b"\xff" * 40 + encoded[start + 40 :]


@pytest.mark.parametrize(
    ("damage", "pillows_words"),
    [(lambda encoded: encoded[:200], "truncated"), (scribbled, "broken data stream")],
    ids=["truncated", "scribbled"],
)
def test_pillows_words_are_in_the_cause_and_not_in_the_reason(
    damage: Callable[[bytes], bytes], pillows_words: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    with pytest.raises(PictureError) as caught:
        pictures.decode(damage(encode(Image.fromarray(noise))), SHAPE, PREPROCESSING)
    assert str(caught.value) == "damaged or truncated: what follows the header cannot be decoded"
    assert pillows_words in str(caught.value.__cause__)


# Decodes a picture with so little memory to spare, and then a small one.
SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from artifact import pictures
from artifact.errors import PictureError
from modelzoo.v1 import manifest_pb2

large, small, spare_bytes = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
shape = manifest_pb2.Input(height=8, width=8, channels=3)
preprocessing = manifest_pb2.Preprocessing(resize_shorter_px=8, interpolation=1)
pictures.decode(small, shape, preprocessing)
taken_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken_bytes + spare_bytes, resource.RLIM_INFINITY))
try:
    pictures.decode(large, shape, preprocessing)
except PictureError as error:
    print(f"{error} <- {type(error.__cause__).__name__}")
print(pictures.decode(small, shape, preprocessing).shape)
"""


@pytest.mark.parametrize("spare_mb", [20, 80])  # as grey the picture takes 36 MB, as RGB 144 MB
def test_a_picture_that_the_memory_does_not_hold_is_refused_and_the_next_is_decoded(
    tmp_path: Path, spare_mb: int
) -> None:
    (tmp_path / "large.png").write_bytes(encode(Image.fromarray(np.zeros((6000, 6000), np.uint8))))
    (tmp_path / "small.png").write_bytes(encode(Image.fromarray(np.zeros((60, 60), np.uint8))))
    files = [str(tmp_path / name) for name in ("large.png", "small.png")]
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, *files, str(spare_mb * 1_000_000)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "too large to be decoded in the memory that is left <- MemoryError",
        "(8, 8, 3)",
    ]
