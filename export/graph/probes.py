"""Pictures to compare answers on where there are no real ones: the same everywhere and every time.

A network that was trained on photographs gives noise one and the same label, whatever its seed, so a proof on
noise alone hardly looks at the weights. These differ in colour, brightness, direction, scale and content.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_images

from artifact.pictures import Pixels
from export.graph.verification import Images, Run

_PATCHES = (2, 3, 5, 9)  # a side, of blocks of one colour
_CROPS_RATIO = ((0.0, 0.0, 1.0), (0.1, 0.3, 0.5), (0.5, 0.1, 0.4))  # of photographs: top, left, side


def pictures(height: int, width: int, channels: int) -> Images:
    """Make 32 pictures that a network can tell apart, uint8 ``[32, height, width, channels]``.

    The first six are one of each kind: noise, gradients, blocks; dark and bright.
    """
    random = np.random.default_rng(0)
    shape = (height, width, channels)
    rows, columns = np.ogrid[:height, :width]
    down, across = (
        np.broadcast_to((places * 255 // side_px).astype(np.uint8)[..., np.newaxis], shape)
        for places, side_px in ((rows, height), (columns, width))
    )

    def blocks(count: int) -> Pixels:
        palette = random.integers(0, 256, (count, count, channels), np.uint8)
        colours: Pixels = palette[rows * count // height, columns * count // width]  # [H, W, C]
        return colours

    def plain(level: int) -> Pixels:
        return np.full(shape, level, np.uint8)

    def stripes(phases: npt.NDArray[np.int64]) -> Pixels:
        return np.broadcast_to((phases % 2 * 255).astype(np.uint8)[..., np.newaxis], shape)

    noise = random.integers(0, 256, shape, np.uint8)
    coarse = blocks(5)
    found = [noise, down, coarse, noise // 4, 255 - across, 255 - coarse // 3]
    found += [blocks(count) for count in _PATCHES]
    found += [stripes(rows * 8 // height), stripes(columns * 8 // width)]
    found += [
        stripes(rows * 4 // height + columns * 4 // width),
        stripes(rows * columns * 20 // (height * width)),
    ]
    found += [plain(0), plain(255), 255 - noise // 4, noise // 8 + 112]
    found += [_tinted(down, channel) for channel in range(3)]
    found += [_tinted(coarse, channel) for channel in range(3)]
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    found += [np.where(disc[..., np.newaxis], *pair) for pair in ((down, plain(0)), (plain(0), noise))]
    found += [_photograph(index, crop, shape) for index in range(2) for crop in _CROPS_RATIO]
    return np.stack(found).astype(np.uint8)  # [32, H, W, C]


def telling(run: Run, images: Images, batch_size: int) -> Images:
    """Put pictures in such an order that the first ones have as many different labels as there are.

    Args:
        run: gives probabilities, float32 ``[N, K]``.
        images: uint8 ``[N, H, W, C]``.
        batch_size: of a run.
    """
    starts = range(0, len(images), batch_size)
    labels = np.concatenate(
        [run(images[start : start + batch_size]).argmax(axis=1) for start in starts]
    )  # [N]
    repeats = [int((labels[:place] == label).sum()) for place, label in enumerate(labels)]
    return images[np.argsort(repeats, kind="stable")]


def _tinted(image: Pixels, channel: int) -> Pixels:
    """Leave one of three channels bright; of a grey picture, make one of three contrasts."""
    kept = np.array([max(0, 3 - abs(index - channel) * 2) for index in range(3)]) / 3
    return (image * (kept if image.shape[2] == 3 else kept[:1] * 0.8 + 0.2)).astype(np.uint8)


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
