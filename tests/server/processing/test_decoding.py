"""Decoding costs what it may and no more, whoever asks, and nobody waits for a huge request's end."""

import asyncio
import threading

import numpy as np
import pytest

from artifact import pictures
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import InvalidRequestError, OverloadedError
from server.processing.decoding import Decoder, Limits

CHUNK_IMAGES = 32  # small pictures in one job of a decoder's thread


class WatchedManifest:
    """A manifest that decoders ask once for every picture: it counts them, and can hold who asks."""

    def __init__(self, manifest: manifest_pb2.Manifest) -> None:
        self._manifest = manifest
        self.preprocessing = manifest.preprocessing
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    @property
    def input(self) -> manifest_pb2.Input:
        if threading.current_thread().name.startswith("headers"):
            return self._manifest.input  # asked for the cost of a picture, before it is decoded
        self.entered.release()
        assert self.gate.wait(60), "nobody opened the gate"
        return self._manifest.input

    def count(self) -> int:
        """Count the pictures that were begun, and forget them."""
        count = 0
        while self.entered.acquire(blocking=False):
            count += 1
        return count


class SlowStart(WatchedManifest):
    """Holds only the thread that asks first."""

    def __init__(self, manifest: manifest_pb2.Manifest) -> None:
        super().__init__(manifest)
        self.gate.clear()
        self._first: int | None = None
        self._lock = threading.Lock()

    @property
    def input(self) -> manifest_pb2.Input:
        if threading.current_thread().name.startswith("headers"):
            return self._manifest.input
        with self._lock:
            self._first = self._first or threading.get_ident()
        if threading.get_ident() == self._first:
            return super().input
        self.entered.release()
        return self._manifest.input


@pytest.fixture
def manifest() -> manifest_pb2.Manifest:
    """What decoding needs to know of a model: it takes 8 x 8 grey pixels."""
    return manifest_pb2.Manifest(
        input=manifest_pb2.Input(height=8, width=8, channels=1),
        preprocessing=manifest_pb2.Preprocessing(
            resize_shorter_px=8, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
        ),
    )


@pytest.fixture
def watched(manifest: manifest_pb2.Manifest):
    watched = WatchedManifest(manifest)
    yield watched
    watched.gate.set()


@pytest.fixture
def decoder():
    made: list[Decoder] = []

    def decoder(threads: int = 1, **limits: int) -> Decoder:
        defaults = {"request_pixels": 10**9, "waiting_pixels": 10**9}
        made.append(Decoder(threads, Limits(pictures.Limits(), **(defaults | limits))))
        return made[-1]

    yield decoder
    for one in made:
        one.close()


@pytest.fixture
def picture(encode):
    """A grey picture of one value, as PNG."""

    def picture(value: int = 0, height: int = 8, width: int = 8) -> classifier_pb2.Image:
        return classifier_pb2.Image(encoded=encode(np.full((height, width, 1), value, np.uint8)))

    return picture


def damaged(picture: classifier_pb2.Image) -> classifier_pb2.Image:
    """Cut a picture off behind its header."""
    return classifier_pb2.Image(encoded=picture.encoded[:45])


def raw(value: int) -> classifier_pb2.Image:
    data = bytes([value]) * 64
    return classifier_pb2.Image(pixels=classifier_pb2.Pixels(height=8, width=8, channels=1, data=data))


async def admitted(decoder: Decoder, pixels: int) -> None:
    """Wait until the headers of requests are read, and so many pixels wait."""
    async with asyncio.timeout(60):
        while decoder.waiting_pixels < pixels:  # noqa: ASYNC110 - it has no event of that
            await asyncio.sleep(0)
    assert decoder.waiting_pixels == pixels


@pytest.mark.parametrize("threads", [1, 3])
def test_the_pixels_come_in_the_order_of_the_images(decoder, manifest, picture, threads: int) -> None:
    images = [raw(value) if value % 7 == 3 else picture(value) for value in range(250)]
    rows = asyncio.run(decoder(threads).decode(images, manifest))
    assert [row.shape for row in rows] == [(8, 8, 1)] * 250
    assert [set(row.flat) for row in rows] == [{value} for value in range(250)]


def test_a_request_of_too_many_pixels_is_refused_undecoded(decoder, watched, picture) -> None:
    async def scenario() -> None:
        one = decoder(request_pixels=1000)
        with pytest.raises(InvalidRequestError) as caught:
            await one.decode([picture(0, 20, 25), picture(0, 20, 25), picture(0, 1, 1)], watched)
        assert caught.value.field == "images"
        assert (
            caught.value.reason == "1,064 pixels in all, more than the 1,000 allowed"
        )  # 1 x 1 becomes 8 x 8
        assert (watched.count(), one.waiting_pixels) == (0, 0)
        assert len(await one.decode([picture(0, 20, 25)] * 2, watched)) == 2

    asyncio.run(scenario())


def test_what_does_not_fit_beside_others_is_refused_until_they_are_done(
    decoder, manifest, watched, picture
) -> None:
    async def scenario() -> None:
        one = decoder(waiting_pixels=1000)
        watched.gate.clear()
        held = asyncio.ensure_future(one.decode([picture(1, 30, 20)], watched))
        assert await asyncio.to_thread(watched.entered.acquire, timeout=60)
        assert one.waiting_pixels == 600
        with pytest.raises(OverloadedError) as caught:
            await one.decode([picture(2, 20, 20), picture(2, 1, 1)], manifest)
        assert str(caught.value) == ("decoder queue full: 600 of 1,000 pixels queued, 464 requested")
        assert caught.value.retry_delay_s == 0.5
        assert one.waiting_pixels == 600
        fits = asyncio.ensure_future(one.decode([picture(3, 20, 20)], manifest))
        free_of_charge = await one.decode([raw(4)], manifest)
        await admitted(one, 1000)
        watched.gate.set()
        rows = [*await held, *await fits, *free_of_charge]
        assert [set(row.flat) for row in rows] == [{1}, {3}, {4}]
        assert one.waiting_pixels == 0
        assert len(await one.decode([picture(2, 20, 20), picture(2, 1, 1)], manifest)) == 2

    asyncio.run(scenario())


def test_a_failed_request_gives_its_room_back(decoder, manifest, picture) -> None:
    async def scenario() -> None:
        one = decoder(waiting_pixels=1000)
        for _ in range(3):
            with pytest.raises(InvalidRequestError, match=r"images\[1\]: damaged or truncated"):
                await one.decode([picture(), damaged(picture(0, 20, 20))], manifest)
            assert one.waiting_pixels == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("side_px", "chunk"), [(8, CHUNK_IMAGES), (1000, 1)])
def test_a_cancelled_request_gives_its_room_back_and_leaves_a_chunk_for_each_thread(
    decoder, manifest, watched, picture, threads: int, side_px: int, chunk: int
) -> None:
    async def scenario() -> None:
        one = decoder(threads)
        watched.gate.clear()
        images = [picture(0, side_px, side_px)] * (chunk * 10)
        doomed = asyncio.ensure_future(one.decode(images, watched))
        for _ in range(threads):
            assert await asyncio.to_thread(
                watched.entered.acquire, timeout=60
            )  # every thread holds a picture
        assert one.waiting_pixels == side_px**2 * chunk * 10
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert one.waiting_pixels == 0
        watched.gate.set()
        # What was left behind in the pool would be decoded before this.
        await one.decode([picture()] * (CHUNK_IMAGES * threads), manifest)
        assert threads + watched.count() <= threads * chunk

    asyncio.run(scenario())


@pytest.mark.parametrize(("side_px", "count"), [(8, 40 * CHUNK_IMAGES), (1000, 25)])
def test_a_small_request_is_answered_before_a_huge_one_that_came_first(
    decoder, manifest, watched, picture, side_px: int, count: int
) -> None:
    ended: list[str] = []

    async def decode(one: Decoder, name: str, images: list[classifier_pb2.Image], manifest) -> None:
        await one.decode(images, manifest)
        ended.append(name)

    async def scenario() -> None:
        one = decoder(1)
        watched.gate.clear()
        huge = asyncio.ensure_future(decode(one, "huge", [picture(0, side_px, side_px)] * count, watched))
        assert await asyncio.to_thread(watched.entered.acquire, timeout=60)
        small = asyncio.ensure_future(decode(one, "small", [picture()], manifest))
        await asyncio.sleep(0)  # the task's turn
        await asyncio.sleep(0)  # its worker's turn
        watched.gate.set()
        await asyncio.gather(huge, small)
        assert ended == ["small", "huge"]

    asyncio.run(scenario())


def test_a_request_that_is_cancelled_before_its_turn_is_never_decoded(
    decoder, manifest, watched, picture
) -> None:
    async def scenario() -> None:
        one, unseen = decoder(1), WatchedManifest(manifest)
        watched.gate.clear()
        held = asyncio.ensure_future(one.decode([picture()], watched))
        assert await asyncio.to_thread(watched.entered.acquire, timeout=60)
        doomed = asyncio.ensure_future(one.decode([picture()] * 3, unseen))
        await admitted(one, 4 * 64)
        await asyncio.sleep(0)  # its worker's turn
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        watched.gate.set()
        await held
        await one.decode([picture()], manifest)
        assert unseen.count() == 0

    asyncio.run(scenario())


def test_the_first_of_several_damaged_images_is_named_also_when_it_is_found_last(
    decoder, manifest, picture
) -> None:
    async def scenario() -> None:
        one, slow = decoder(2), SlowStart(manifest)
        images = [picture()] * 100
        for index in (CHUNK_IMAGES - 1, CHUNK_IMAGES):  # the end of a chunk, and the start of the next
            images[index] = damaged(picture())
        doomed = asyncio.ensure_future(one.decode(images, slow))
        for _ in range(2):
            assert await asyncio.to_thread(slow.entered.acquire, timeout=60)  # by both chunks
        await one.decode([picture()], manifest)  # on the thread that has failed
        slow.gate.set()
        with pytest.raises(InvalidRequestError, match=r"images\[31\]: damaged or truncated"):
            await doomed

    asyncio.run(scenario())


def test_nothing_is_decoded_behind_a_damaged_image(decoder, watched, picture) -> None:
    images = [damaged(picture()), *[picture()] * 200]
    with pytest.raises(InvalidRequestError, match=r"images\[0\]: damaged or truncated"):
        asyncio.run(decoder(1).decode(images, watched))
    assert watched.count() == 1


@pytest.mark.parametrize("first", ["neither a JPEG, a PNG nor a WebP file", "63 bytes of pixels, not 64"])
def test_the_first_image_that_is_wrong_on_its_face_is_named(decoder, watched, picture, first: str) -> None:
    cut = raw(0)
    cut.pixels.data = bytes(63)
    wrong = {"neither a JPEG, a PNG nor a WebP file": classifier_pb2.Image(encoded=b"GIF89a")}
    wrong["63 bytes of pixels, not 64"] = cut
    one = wrong.pop(first)
    [other] = wrong.values()
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(decoder().decode([picture(), one, other], watched))
    assert (caught.value.field, caught.value.reason) == ("images[1]", first)
