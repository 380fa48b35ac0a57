"""From the images of a request to pixels, in bounded pools of threads.

Everything that can be wrong with a picture is found here, before a queue: a batch may only fail for the
device's sake. What a picture costs stands in its header: headers are read first, and decide what is let in.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from artifact import pictures
from artifact.errors import PictureError
from artifact.headers import Header
from artifact.pictures import Pixels
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import InvalidRequestError, ModelZooError, OverloadedError
from server.inference import Rows
from server.processing import jpeg
from server.processing.raw_pixels import Source, Taken, WrongImage, stack_pixels, take_pixels
from server.processing.working_set import WorkingSet

_RETRY_DELAY_S = 0.5  # some pictures of a camera's size
# What one job decodes at the most. Small enough that others soon get their turn, and that little goes on
# once a request is cancelled; large enough that handing over (50 us) does not count beside it.
_CHUNK_PIXELS, _CHUNK_IMAGES = 1_000_000, 32
# What one job reads the headers of: 4 MB are searched in 3 ms, however they were made up.
_HEADER_BYTES, _HEADER_IMAGES = 4 << 20, 32

Product = TypeVar("Product")


@dataclass(frozen=True)
class Limits:
    """What decoding may cost.

    Attributes:
        picture: one picture.
        request_pixels: all pictures of a request, as their headers say.
        waiting_pixels: all pictures that wait or are being decoded.
        working_pixels: all that are in memory while they are decoded; as many as the largest picture has, in
            any case. By default four of a telephone's: a pixel takes 4 bytes, and 4 more while it is turned.
    """

    picture: pictures.Limits
    request_pixels: int
    waiting_pixels: int
    working_pixels: int = 48_000_000


class _File(NamedTuple):
    """An encoded picture, and its header."""

    encoded: bytes
    header: Header
    cost: pictures.Cost


class _Done(NamedTuple, Generic[Product]):
    """What a job has made, by index, up to the first image that is wrong: a plain value, never an error."""

    made: dict[int, Product]
    wrong: WrongImage | None = None


class Decoder:
    """Decodes the pictures of all requests.

    Args:
        threads: pictures at the same time.
    """

    def __init__(self, threads: int, limits: Limits) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="headers")  # waits for no pixels
        self._threads = threads
        self._limits = limits
        self._waiting_pixels = 0  # the event loop alone touches it
        self._working = WorkingSet(max(limits.picture.max_pixels, limits.working_pixels))

    @property
    def waiting_pixels(self) -> int:
        """Return the pixels that wait or are being decoded."""
        return self._waiting_pixels

    async def decode(self, images: Sequence[Source], manifest: manifest_pb2.Manifest) -> Rows:
        """Return the pixels of every image, uint8 ``[H, W, C]``, in the order of the request.

        In one array where none of them was encoded.

        Being cancelled leaves at most one chunk per thread to be finished in vain.

        Raises:
            InvalidRequestError: names the first image that is wrong, and why: the first with a wrong
                shape or header, or where all of these are right, the first with wrong content. It keeps
                nothing of the request alive.
            OverloadedError: the decoders have no room for all of them; the same holds.
        """
        stacked = stack_pixels(images, manifest)
        if stacked is not None:
            return stacked
        taken = take_pixels(images, manifest)
        outcome = await self._outcome(taken, len(images), manifest)
        if isinstance(outcome, list):
            return outcome
        del images, taken
        try:
            raise outcome
        finally:
            del outcome  # else it would keep itself, and all frames on its way

    def close(self) -> None:
        """Drop what waits and end the threads."""
        for pool in (self._headers, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _outcome(
        self, taken: Taken, count: int, manifest: manifest_pb2.Manifest
    ) -> list[Pixels] | ModelZooError:
        """Decode as `decode` does, but return what that raises: an error that is raised keeps its frames."""
        rows, sources, wrong = taken
        files: dict[int, _File] = {}
        while sources:
            checked = await asyncio.wrap_future(
                self._headers.submit(_check_some, sources, manifest, self._limits.picture)
            )
            files |= checked.made
            if checked.wrong is not None:
                return checked.wrong.error()
        if wrong is not None:
            return wrong.error()
        if files:
            total_px = sum(file.cost.work_px for file in files.values())
            if error := self._refusal(total_px):
                return error
            self._waiting_pixels += total_px
            try:
                if (wrong := await self._decode(files, rows, manifest)) is not None:
                    return wrong.error()
            finally:
                self._waiting_pixels -= total_px
        return [rows[index] for index in range(count)]

    def _refusal(self, total_px: int) -> ModelZooError | None:
        """Return why pictures of so many pixels are not decoded now, or at all; None where they are."""
        if total_px > self._limits.request_pixels:
            return InvalidRequestError(
                "images",
                f"{total_px:,} pixels in all, more than the {self._limits.request_pixels:,} allowed",
            )
        if self._waiting_pixels + total_px > self._limits.waiting_pixels:
            return OverloadedError(
                f"decoder queue full: {self._waiting_pixels:,} of {self._limits.waiting_pixels:,} "
                f"pixels queued, {total_px:,} requested",
                _RETRY_DELAY_S,
            )
        return None

    async def _decode(
        self, files: dict[int, _File], rows: dict[int, Pixels], manifest: manifest_pb2.Manifest
    ) -> WrongImage | None:
        """Decode files into rows; return the first that is wrong."""
        chunks = deque(_chunks(files))
        found: list[WrongImage] = []

        async def work() -> None:
            """Decode a chunk after the other, each behind what other requests have handed in meanwhile."""
            while chunks:
                decoded = await self._run({index: files.pop(index) for index in chunks.popleft()}, manifest)
                rows.update(decoded.made)
                if decoded.wrong is not None:
                    found.append(decoded.wrong)
                    chunks.clear()  # every earlier one is in hand already

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._threads, len(chunks))):
                group.create_task(work())
        return min(found, default=None)

    async def _run(self, chunk: dict[int, _File], manifest: manifest_pb2.Manifest) -> _Done[Pixels]:
        """Decode a chunk once its largest picture has room beside what is being decoded."""
        room_px = await self._working.enter(max(file.cost.held_px for file in chunk.values()))
        leave = partial(asyncio.get_running_loop().call_soon_threadsafe, self._working.leave, room_px)
        try:
            job = self._pool.submit(_decode_chunk, chunk, manifest, self._limits.picture)
        except RuntimeError:  # the pool is closed
            self._working.leave(room_px)
            raise
        job.add_done_callback(partial(_leave, leave))  # also of a request that was cancelled, but not before
        try:
            return await asyncio.wrap_future(job)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # which hold files and pixels
            raise


def _chunks(files: Mapping[int, _File]) -> Iterator[list[int]]:
    """Cut a request's pictures into jobs, in order; a large picture is a job of its own."""
    chunk: list[int] = []
    pixels = 0
    for index, file in files.items():
        if chunk and (pixels + file.cost.work_px > _CHUNK_PIXELS or len(chunk) == _CHUNK_IMAGES):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(index)
        pixels += file.cost.work_px
    yield chunk


def _check_some(
    sources: deque[tuple[int, Source]], manifest: manifest_pb2.Manifest, limits: pictures.Limits
) -> _Done[_File]:
    """Take images off the front, copy their files out of the request, and read the headers."""
    files: dict[int, _File] = {}
    size_bytes = 0
    while sources and len(files) < _HEADER_IMAGES and size_bytes < _HEADER_BYTES:
        index, source = sources.popleft()
        encoded = source.encoded if isinstance(source, classifier_pb2.Image) else source
        if not isinstance(encoded, bytes):
            encoded = bytes(encoded)
        size_bytes += len(encoded)
        try:
            header = pictures.check(encoded, limits)
            cost = pictures.cost(header, manifest.input, manifest.preprocessing, limits)
            files[index] = _File(encoded, header, cost)
        except PictureError as error:
            return _Done(files, WrongImage(index, str(error)))
    return _Done(files)


def _decode_chunk(
    chunk: dict[int, _File], manifest: manifest_pb2.Manifest, limits: pictures.Limits
) -> _Done[Pixels]:
    """Decode files, and let go of each as soon as it is decoded."""
    rows: dict[int, Pixels] = {}
    for index in sorted(chunk):
        encoded, header, _ = chunk.pop(index)
        try:
            rows[index] = pictures.decode(
                encoded, manifest.input, manifest.preprocessing, limits, jpeg.codec, header
            )
        except PictureError as error:
            return _Done(rows, WrongImage(index, str(error)))
    return _Done(rows)


def _leave(leave: Callable[[], object], job: Future[_Done[Pixels]]) -> None:
    """Return the room of an ended job back on the event loop, unless that has ended with the server."""
    del job
    with suppress(RuntimeError):
        leave()
