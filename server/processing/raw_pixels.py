"""The raw pixels of a request's images, and which of these have to be decoded."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from artifact.pictures import Pixels
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import InvalidRequestError

# An image as it comes: of the classifier's requests, encoded or not; or an encoded file.
Source: TypeAlias = classifier_pb2.Image | bytes | memoryview


class WrongImage(NamedTuple):
    """Why an image cannot be taken; the first of a request is the least."""

    position: int
    reason: str

    def error(self) -> InvalidRequestError:
        """Return it as the request's refusal."""
        return InvalidRequestError(f"images[{self.position}]", self.reason)


class Taken(NamedTuple):
    """A request's images, by index: pixels, files that are to be decoded, and the first that is wrong."""

    rows: dict[int, Pixels]
    sources: deque[tuple[int, Source]]
    wrong: WrongImage | None


def stack_pixels(images: Sequence[Source], manifest: manifest_pb2.Manifest) -> npt.NDArray[np.uint8] | None:
    """Put a request's images into one array, uint8 ``[N, H, W, C]``; None unless all are raw, and right.

    Args:
        images: at least one.
    """
    raw = [
        image.pixels
        for image in images
        if isinstance(image, classifier_pb2.Image) and image.HasField("pixels")
    ]
    if len(raw) < len(images):
        return None
    shape = _shape(manifest)
    parts: list[bytes] = []
    for pixels in raw:
        content = _content(pixels, shape)
        if isinstance(content, str):
            return None
        parts.append(content)
    whole = parts[0] if len(parts) == 1 else b"".join(parts)
    return np.frombuffer(whole, np.uint8).reshape(len(parts), *shape)


def take_pixels(images: Sequence[Source], manifest: manifest_pb2.Manifest) -> Taken:
    """Take raw pixels out of a request, up to the first that are wrong, and leave the encoded files."""
    rows: dict[int, Pixels] = {}
    sources: deque[tuple[int, Source]] = deque()
    shape = None
    for index, image in enumerate(images):
        if not isinstance(image, classifier_pb2.Image) or not image.HasField("pixels"):
            sources.append((index, image))
            continue
        shape = shape or _shape(manifest)
        content = _content(image.pixels, shape)
        if isinstance(content, str):
            return Taken(rows, sources, WrongImage(index, content))
        rows[index] = np.frombuffer(content, np.uint8).reshape(shape)
    return Taken(rows, sources, None)


def _shape(manifest: manifest_pb2.Manifest) -> tuple[int, int, int]:
    """Return height, width and channels of the model's input."""
    return manifest.input.height, manifest.input.width, manifest.input.channels


def _content(pixels: classifier_pb2.Pixels, wanted: tuple[int, int, int]) -> bytes | str:
    """Return the bytes of raw pixels of a shape, or why they cannot be taken."""
    given = (pixels.height, pixels.width, pixels.channels)
    if given != wanted:
        return f"pixels of shape {given} (height, width, channels), not {wanted}"
    data = pixels.data  # read once: every access copies
    size_bytes = wanted[0] * wanted[1] * wanted[2]
    if len(data) != size_bytes:
        return f"{len(data)} bytes of pixels, not {size_bytes}"
    return data
