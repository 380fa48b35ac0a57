"""What is decoded at the same time fits into its memory; nothing starves, leaks room or stays behind."""

import asyncio
import gc
import io
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from artifact import pictures
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import ModelZooError
from server.processing.decoding import Decoder, Limits
from server.processing.working_set import WorkingSet
from tests.server.processing.test_decoding import WatchedManifest

MANIFEST = manifest_pb2.Manifest(
    input=manifest_pb2.Input(height=8, width=8, channels=1),
    preprocessing=manifest_pb2.Preprocessing(
        resize_shorter_px=8, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
    ),
)


async def turns() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_does_not_fit_waits_and_nobody_passes_them() -> None:
    async def scenario() -> None:
        working, begun = WorkingSet(100), []

        async def work(size_px: int) -> None:
            begun.append((size_px, await working.enter(size_px)))

        await work(60)
        tasks = [asyncio.create_task(work(size_px)) for size_px in (41, 10, 1000, 1)]
        await turns()
        assert begun == [(60, 60)]  # 10 would fit, but 41 was there before
        working.leave(60)
        await turns()
        assert begun[1:] == [(41, 41), (10, 10)]
        working.leave(41)
        await turns()
        assert len(begun) == 3  # the largest has all for itself
        working.leave(10)
        await turns()
        assert begun[3:] == [(1000, 100)]
        working.leave(100)
        await asyncio.gather(*tasks)
        assert (begun[4:], working.taken_px) == ([(1, 1)], 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("granted", [False, True])
def test_who_is_cancelled_gives_way_and_room_back(granted: bool) -> None:
    async def scenario() -> None:
        working = WorkingSet(100)
        await working.enter(60)
        large, small = (asyncio.create_task(working.enter(size_px)) for size_px in (50, 40))
        await turns()
        if granted:  # its turn and its end come together
            working.leave(60)
        large.cancel()
        await turns()
        assert large.cancelled()
        assert await small == 40
        assert working.taken_px == (40 if granted else 100)

    asyncio.run(scenario())


@pytest.fixture
def decoder() -> Iterator[Callable[..., Decoder]]:
    made: list[Decoder] = []

    def decoder(threads: int = 2, working: int = 1000, **limits: int) -> Decoder:
        sizes = {"request_pixels": 10**6, "waiting_pixels": 10**6, "working_pixels": working} | limits
        made.append(Decoder(threads, Limits(pictures.Limits(max_pixels=1000), **sizes)))
        return made[-1]

    yield decoder
    for one in made:
        one.close()


def png(width_px: int, height_px: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width_px, height_px)).save(stream, "PNG")
    return stream.getvalue()


def test_two_large_pictures_are_not_decoded_at_once_and_small_ones_are(decoder) -> None:
    async def scenario() -> None:
        one, watched = decoder(), WatchedManifest(MANIFEST)
        watched.gate.clear()
        large = [asyncio.ensure_future(one.decode([png(40)], watched)) for _ in range(2)]
        assert await asyncio.to_thread(watched.entered.acquire, timeout=60)
        while one.waiting_pixels < 1600:  # noqa: ASYNC110 - it has no event of that
            await asyncio.sleep(0)
        await turns()
        assert one._working.taken_px == 800
        assert not watched.entered.acquire(blocking=False)
        watched.gate.set()
        await asyncio.gather(*large)
        watched.gate.clear()
        small = [asyncio.ensure_future(one.decode([png(25)], watched)) for _ in range(2)]
        for _ in small:
            assert await asyncio.to_thread(watched.entered.acquire, timeout=60)
        watched.gate.set()
        await asyncio.gather(*small)

    asyncio.run(scenario())


def test_a_cancelled_picture_keeps_its_room_until_its_thread_lets_go(decoder) -> None:
    async def scenario() -> None:
        one, watched = decoder(), WatchedManifest(MANIFEST)
        watched.gate.clear()
        doomed = [asyncio.ensure_future(one.decode([png(40)], watched)) for _ in range(3)]
        assert await asyncio.to_thread(watched.entered.acquire, timeout=60)
        for request in doomed:
            request.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        assert one._working.taken_px == 800
        watched.gate.set()
        assert len(await one.decode([png(40)], MANIFEST)) == 1
        while one._working.taken_px:  # noqa: ASYNC110 - the thread tells the loop when it has ended
            await asyncio.sleep(0)

    asyncio.run(scenario())


class Body(bytes):
    """A file whose end can be watched."""

    def __init__(self, _: bytes) -> None:
        self.mark = threading.Lock()


WRONG = {
    "no picture": ([png(8), b"GIF89a"], {}),
    "damaged": ([png(8), png(20)[:45]], {}),
    "too large": ([png(8), png(1000)], {}),
    "too much": ([png(20), png(20)], {"request_pixels": 500}),
    "no room": ([png(20), png(20)], {"waiting_pixels": 500}),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_keeps_neither_files_nor_pixels_alive(decoder, wait_for, case: str) -> None:
    """Whoever keeps it, and its traceback, keeps none of them; and no collector has to come by."""

    async def refused(one: Decoder, bodies: list[Body]) -> ModelZooError:
        try:
            await one.decode(bodies, MANIFEST)
        except ModelZooError as error:
            return error
        raise AssertionError("it was taken")

    async def scenario() -> None:
        files, limits = WRONG[case]
        bodies = [Body(file) for file in files]
        marks = [weakref.ref(body.mark) for body in bodies]
        error = await refused(decoder(**limits), bodies)
        bodies.clear()
        await asyncio.to_thread(wait_for, lambda: [mark() for mark in marks] == [None, None])
        assert (error.__cause__, error.__context__) == (None, None)
        seen, trace = [], error.__traceback__
        while trace is not None:
            seen += trace.tb_frame.f_locals.values()
            trace = trace.tb_next
        assert not any(isinstance(value, bytes | np.ndarray | dict) for value in seen)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


# Decodes a picture and prints how much memory that took at its most, in bytes a pixel.
PEAK = """
import resource, sys
from pathlib import Path
from artifact import pictures
from modelzoo.v1 import manifest_pb2
from server.processing import jpeg

def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large = (Path(name).read_bytes() for name in sys.argv[1:3])
shape = manifest_pb2.Input(height=8, width=8, channels=3)
preprocessing = manifest_pb2.Preprocessing(resize_shorter_px=8, interpolation=1)
pictures.decode(small, shape, preprocessing, codec=jpeg.codec)
before_bytes = peak_bytes()
pictures.decode(large, shape, preprocessing, codec=jpeg.codec)
header = pictures.check(large)
print((peak_bytes() - before_bytes) / (header.width_px * header.height_px))
"""


@pytest.mark.slow
def test_a_picture_that_is_turned_takes_eight_bytes_a_pixel(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    names = [str(tmp_path / name) for name in ("small.jpg", "large.jpg")]
    for name, size in zip(names, [(64, 64), (6000, 5000)], strict=True):
        Image.new("RGB", size, "red").save(name, exif=exif)
    done = subprocess.run([sys.executable, "-c", PEAK, *names], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 9


def test_pixels_and_files_of_a_request_are_told_apart(decoder) -> None:
    raw = classifier_pb2.Pixels(height=8, width=8, channels=1, data=bytes(64))
    images = [
        classifier_pb2.Image(pixels=raw),
        classifier_pb2.Image(encoded=png(8)),
        png(8),
        memoryview(png(8)),
    ]
    rows = asyncio.run(decoder().decode(images, MANIFEST))
    assert [row.shape for row in rows] == [(8, 8, 1)] * 4
