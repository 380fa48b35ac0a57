"""From the images of a request to pixels, in a bounded pool of threads.

Everything that can be wrong with a picture is found here, before a queue: a batch may only fail for the
device's sake. What a picture costs is told by its header, so the headers decide who is let in.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from artifact import pictures
from artifact.errors import PictureError
from artifact.pictures import Pixels
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import InvalidRequestError, OverloadedError
from server.processing import jpeg

_RETRY_DELAY_S = 0.5  # some pictures of a camera's size
# What one job decodes at the most. Small enough that others soon get their turn, and that little goes on
# once nobody waits; large enough that handing over (50 us) does not count beside it.
_CHUNK_PIXELS, _CHUNK_IMAGES = 1_000_000, 32


@dataclass(frozen=True)
class Limits:
    """What decoding may cost.

    Attributes:
        picture: one picture.
        request_pixels: all pictures of a request, as their headers say.
        waiting_pixels: all pictures that wait or are being decoded.
    """

    picture: pictures.Limits
    request_pixels: int
    waiting_pixels: int


class Decoder:
    """Decodes the pictures of all requests.

    Args:
        threads: pictures at the same time.
    """

    def __init__(self, threads: int, limits: Limits) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")
        self._threads = threads
        self._limits = limits
        self._waiting_pixels = 0  # the event loop alone touches it

    @property
    def waiting_pixels(self) -> int:
        """Give the pixels that wait or are being decoded."""
        return self._waiting_pixels

    async def decode(
        self, images: Sequence[classifier_pb2.Image], manifest: manifest_pb2.Manifest
    ) -> list[Pixels]:
        """Give the pixels of every image, uint8 ``[H, W, C]``, in the order of the request.

        Being cancelled leaves at most one chunk per thread to be finished for nobody.

        Raises:
            InvalidRequestError: names the first image that is wrong, and why: the first whose shape or
                header is, or where all of these are right, the first whose content is.
            OverloadedError: the decoders have no room for all of them.
        """
        rows: dict[int, Pixels] = {}
        encoded: dict[int, bytes] = {}
        sizes: dict[int, int] = {}
        shape = None
        for index, image in enumerate(images):
            if image.HasField("pixels"):
                shape = shape or (manifest.input.height, manifest.input.width, manifest.input.channels)
                rows[index] = _pixels(index, image.pixels, shape)
            else:
                encoded[index] = image.encoded
                sizes[index] = _measure(index, encoded[index], self._limits.picture)
        if not encoded:
            return list(rows.values())
        rows |= await self._decode(encoded, sizes, manifest)
        return [rows[index] for index in range(len(images))]

    async def decode_files(self, files: Sequence[bytes], manifest: manifest_pb2.Manifest) -> list[Pixels]:
        """Give the same of pictures that are all encoded.

        Raises:
            InvalidRequestError, OverloadedError: see `decode`.
        """
        sizes = {index: _measure(index, file, self._limits.picture) for index, file in enumerate(files)}
        rows = await self._decode(dict(enumerate(files)), sizes, manifest)
        return [rows[index] for index in range(len(files))]

    def close(self) -> None:
        """Drop what waits and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _decode(
        self, encoded: Mapping[int, bytes], sizes: Mapping[int, int], manifest: manifest_pb2.Manifest
    ) -> dict[int, Pixels]:
        total = sum(sizes.values())
        if total > self._limits.request_pixels:
            raise InvalidRequestError(
                "images", f"{total:,} pixels in all, more than the {self._limits.request_pixels:,} allowed"
            )
        if self._waiting_pixels + total > self._limits.waiting_pixels:
            raise OverloadedError(
                f"pictures of {self._waiting_pixels:,} pixels wait for a decoder, "
                f"of {self._limits.waiting_pixels:,} that may; {total:,} more do not fit",
                _RETRY_DELAY_S,
            )
        chunks = deque(_chunks(sizes))
        rows: dict[int, Pixels] = {}
        problems: list[_InvalidImageError] = []

        async def work() -> None:
            """Decode a chunk after the other, each behind what other requests have handed in meanwhile."""
            while chunks:
                chunk = {index: encoded[index] for index in chunks.popleft()}
                try:
                    job = self._pool.submit(_decode_chunk, chunk, manifest, self._limits.picture)
                    decoded: dict[int, Pixels] = await asyncio.wrap_future(job)
                    rows.update(decoded)
                except _InvalidImageError as error:
                    problems.append(error)
                    chunks.clear()  # every earlier one is in hand already

        self._waiting_pixels += total
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._threads, len(chunks))):
                    group.create_task(work())
        finally:
            self._waiting_pixels -= total
        if problems:
            raise min(problems, key=lambda problem: problem.index)
        return rows


def _chunks(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Cut a request's pictures into jobs, in order; a large picture is a job of its own."""
    chunk: list[int] = []
    pixels = 0
    for index, size in sizes.items():
        if chunk and (pixels + size > _CHUNK_PIXELS or len(chunk) == _CHUNK_IMAGES):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(index)
        pixels += size
    yield chunk


def _decode_chunk(
    encoded: Mapping[int, bytes], manifest: manifest_pb2.Manifest, limits: pictures.Limits
) -> dict[int, Pixels]:
    rows = {}
    for index, body in encoded.items():
        try:
            rows[index] = pictures.decode(body, manifest.input, manifest.preprocessing, limits, jpeg.codec)
        except PictureError as error:
            raise _InvalidImageError(index, str(error)) from error
    return rows


def _measure(index: int, encoded: bytes, limits: pictures.Limits) -> int:
    """Give a picture's pixels, out of its header alone."""
    try:
        return pictures.measure(encoded, limits)
    except PictureError as error:
        raise _InvalidImageError(index, str(error)) from error


class _InvalidImageError(InvalidRequestError):
    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"images[{index}]", reason)
        self.index = index


def _pixels(index: int, pixels: classifier_pb2.Pixels, wanted: tuple[int, int, int]) -> Pixels:
    """Take raw pixels as uint8 ``[H, W, C]``.

    Args:
        wanted: height, width and channels of the model's input.

    Raises:
        InvalidRequestError: another shape than the model's, or another number of bytes.
    """
    given = (pixels.height, pixels.width, pixels.channels)
    if given != wanted:
        raise _InvalidImageError(index, f"pixels of shape {given} (height, width, channels), not {wanted}")
    data = pixels.data  # read once: every access copies
    size_bytes = wanted[0] * wanted[1] * wanted[2]
    if len(data) != size_bytes:
        raise _InvalidImageError(index, f"{len(data)} bytes of pixels, not {size_bytes}")
    return np.frombuffer(data, np.uint8).reshape(wanted)
