"""Pictures to compare answers on where there are no real ones: the same everywhere and every time.

A network that was trained on photographs gives noise one and the same label, whatever its seed, so a proof on
noise alone hardly looks at the weights. These differ in colour, brightness, direction, scale and content.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_images

from artifact.pictures import Pixels
from export.graph.verification import Images, Probabilities, Run, in_batches

COUNT = 32
_BLOCKS = (2, 3, 6, 9)  # a side, each of one colour
_CROPS_RATIO = ((0.0, 0.0, 1.0), (0.1, 0.3, 0.5), (0.5, 0.1, 0.4))  # of photographs: top, left, side


def pictures(height: int, width: int, channels: int, count: int = COUNT) -> Images:
    """Make pictures that a network can tell apart, uint8 ``[count, height, width, channels]``.

    Args:
        height: in pixels.
        width: in pixels.
        channels: 1 or 3.
        count: `COUNT` at most. The first six are one of each kind: noise, gradients, blocks; dark, bright.
    """
    return np.stack(list(islice(_made((height, width, channels)), count)))  # [count, H, W, C]


def _made(shape: tuple[int, int, int]) -> Iterator[Pixels]:
    random = np.random.default_rng(0)
    height, width, channels = shape
    rows, columns = np.ogrid[:height, :width]

    def spread(values: npt.NDArray[np.int64]) -> Pixels:
        """Give every channel the same values, which are 0..255."""
        return np.broadcast_to(values.astype(np.uint8)[..., np.newaxis], shape)

    def blocks(count: int) -> Pixels:
        palette = random.integers(0, 256, (count, count, channels), np.uint8)
        colours: Pixels = palette[rows * count // height, columns * count // width]  # [H, W, C]
        return colours

    noise, coarse = random.integers(0, 256, shape, np.uint8), blocks(5)
    down, across = spread(rows * 255 // height + 0 * columns), spread(columns * 255 // width + 0 * rows)
    yield from (noise, down, coarse, noise // 4, 255 - across, 255 - coarse // 3)
    yield from (_photograph(index, crop, shape) for crop in _CROPS_RATIO for index in range(2))
    yield from (np.full(shape, level, np.uint8) for level in (0, 255))
    yield from (blocks(count) for count in _BLOCKS)
    bands = (rows * 8 // height, columns * 8 // width)
    swirl = rows * columns * 20 // (height * width)
    yield from (spread(band % 2 * 255 + 0 * swirl) for band in (*bands, bands[0] // 2 + bands[1] // 2, swirl))
    yield from (255 - noise // 4, noise // 8 + 112)
    yield from (_tinted(image, channel) for image in (down, coarse) for channel in range(3))
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    yield from (disc[..., np.newaxis] * image for image in (down, noise))


def telling(run: Run, images: Images, batch_size: int) -> tuple[Images, Probabilities]:
    """Put pictures in such an order that the first ones have as many different labels as there are.

    Args:
        run: gives probabilities, float32 ``[N, K]``.
        images: uint8 ``[N, H, W, C]``.
        batch_size: of a run.

    Returns:
        The pictures, and their probabilities.
    """
    answers = in_batches(run, images, batch_size)  # [N, K]
    labels = answers.argmax(axis=1)
    repeats = [int((labels[:place] == label).sum()) for place, label in enumerate(labels)]
    order = np.argsort(repeats, kind="stable")
    return images[order], answers[order]


def _tinted(image: Pixels, channel: int) -> Pixels:
    """Leave one of three channels bright; of a grey picture, make one of three contrasts."""
    strengths = [1.0 if index == channel else 0.25 for index in range(3)]
    kept = np.array(strengths if image.shape[2] == 3 else (channel + 1) / 4)
    tinted: Pixels = (image * kept).astype(np.uint8)
    return tinted


def _photograph(index: int, crop: tuple[float, float, float], shape: tuple[int, int, int]) -> Pixels:
    """Cut a part out of one of scikit-learn's two photographs."""
    photograph = _photographs()[index]
    top, left, side = crop
    part = (
        int(left * photograph.width),
        int(top * photograph.height),
        int((left + side) * photograph.width),
        int((top + side) * photograph.height),
    )
    height, width, channels = shape
    resized = photograph.resize((width, height), Image.Resampling.BILINEAR, box=part)
    pixels = np.asarray(resized if channels == 3 else resized.convert("L"), np.uint8)
    return pixels.reshape(shape)


@lru_cache(maxsize=1)
def _photographs() -> list[Image.Image]:
    return [Image.fromarray(image) for image in load_sample_images().images]
