"""From the images of a request to pixels, in a bounded pool of threads.

Everything that can be wrong with a picture is found here, before a queue: a batch may only fail for the
device's sake.
"""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from artifact import pictures
from artifact.errors import PictureError
from artifact.pictures import Pixels
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import InvalidRequestError, OverloadedError
from server.handover import hand_over

_RETRY_DELAY_S = 0.1  # a few pictures of a camera's size


class Decoder:
    """Decodes the pictures of all requests.

    Args:
        threads: pictures at the same time.
        max_waiting: pictures that may wait or be decoded before more are refused.
        limits: what one picture may cost.
    """

    def __init__(self, threads: int, max_waiting: int, limits: pictures.Limits) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")
        self._threads = threads
        self._max_waiting = max_waiting
        self._limits = limits
        self._waiting = 0  # pictures; the event loop alone touches it

    async def decode(
        self, images: Sequence[classifier_pb2.Image], manifest: manifest_pb2.Manifest
    ) -> list[Pixels]:
        """Give the pixels of every image, uint8 ``[H, W, C]``, in the order of the request.

        Raises:
            InvalidRequestError: names the first image that is wrong, and why.
            OverloadedError: the decoders have no room for all of them.
        """
        rows: list[Pixels | None] = [None] * len(images)
        encoded: list[int] = []
        for index, image in enumerate(images):
            if image.WhichOneof("content") == "pixels":
                rows[index] = _view(index, image.pixels, manifest.input)
            else:
                encoded.append(index)
        if encoded:
            for index, row in zip(encoded, await self._decode(images, encoded, manifest), strict=True):
                rows[index] = row
        return [row for row in rows if row is not None]

    def close(self) -> None:
        """Drop what waits and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _decode(
        self, images: Sequence[classifier_pb2.Image], indices: Sequence[int], manifest: manifest_pb2.Manifest
    ) -> list[Pixels]:
        if self._waiting + len(indices) > self._max_waiting:
            raise OverloadedError(
                f"{self._waiting} pictures wait for a decoder, of {self._max_waiting} that may; "
                f"{len(indices)} more do not fit",
                _RETRY_DELAY_S,
            )
        loop = asyncio.get_running_loop()
        # One job a thread, not one a picture: handing over costs as much as decoding a small one.
        parts = [indices[start :: self._threads] for start in range(min(self._threads, len(indices)))]
        jobs = []
        for part in parts:
            self._waiting += len(part)
            job = self._pool.submit(self._decode_part, images, part, manifest)
            job.add_done_callback(functools.partial(self._ended, loop, len(part)))
            jobs.append(asyncio.wrap_future(job))
        decoded: dict[int, Pixels] = {}
        problems: list[_InvalidImageError] = []
        for result in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(result, _InvalidImageError):
                problems.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                decoded.update(result)
        if problems:
            raise min(problems, key=lambda problem: problem.index)
        return [decoded[index] for index in indices]

    def _decode_part(
        self, images: Sequence[classifier_pb2.Image], indices: Sequence[int], manifest: manifest_pb2.Manifest
    ) -> dict[int, Pixels]:
        rows = {}
        for index in indices:
            try:
                rows[index] = pictures.decode(
                    images[index].encoded, manifest.input, manifest.preprocessing, self._limits
                )
            except PictureError as error:
                raise _InvalidImageError(index, str(error)) from error
        return rows

    def _ended(self, loop: asyncio.AbstractEventLoop, count: int, _: object) -> None:
        """Make room again, however the job ended; called on the thread where it did."""
        hand_over(loop, self._release, count)

    def _release(self, count: int) -> None:
        self._waiting -= count


class _InvalidImageError(InvalidRequestError):
    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"images[{index}]", reason)
        self.index = index


def _view(index: int, pixels: classifier_pb2.Pixels, shape: manifest_pb2.Input) -> Pixels:
    """View raw pixels as uint8 ``[H, W, C]``, without a copy.

    Raises:
        InvalidRequestError: another shape than the model's, or another number of bytes.
    """
    given = (pixels.height, pixels.width, pixels.channels)
    wanted = (shape.height, shape.width, shape.channels)
    if given != wanted:
        raise _InvalidImageError(index, f"pixels of shape {given} (height, width, channels), not {wanted}")
    size_bytes = shape.height * shape.width * shape.channels
    if len(pixels.data) != size_bytes:
        raise _InvalidImageError(index, f"{len(pixels.data)} bytes of pixels, not {size_bytes}")
    return np.frombuffer(pixels.data, np.uint8).reshape(wanted)
