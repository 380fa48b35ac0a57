"""Pictures that were made to cost: refused by name, by every method, off the event loop, one by one."""

import asyncio
import io
import struct
import threading
from collections import deque

import grpc
import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from modelzoo.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    manifest_pb2,
    open_inference_pb2,
    open_inference_pb2_grpc,
)
from server.processing import decoding
from server.processing.decoding import Decoder, Limits

MODEL = "simple_cnn-digits"
pytestmark = pytest.mark.serves(MODEL)


def save(form: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, form)
    return stream.getvalue()


JPEG, PNG = save("JPEG"), save("PNG")
FRAME = JPEG.index(b"\xff\xc0")


def with_frame(marker: int, bits: int = 8) -> bytes:
    return JPEG[:FRAME] + bytes([0xFF, marker, 0, 17, bits]) + JPEG[FRAME + 5 :]


PICTURES = {
    "a million empty segments": (
        JPEG[:2] + b"\xff\xe1\x00\x02" * 1_000_000 + JPEG[2:],
        "more than 4,096 segments",
    ),
    "a million chunks": (
        PNG[:33] + (bytes(4) + b"teSt" + bytes(4)) * 1_000_000 + PNG[33:],
        "more than 16,384 chunks",
    ),
    "lossless": (with_frame(0xC3), "lossless JPEG; only baseline and progressive are decoded"),
    "12 bits": (with_frame(0xC1, 12), "12-bit JPEG; only 8 bits a sample are decoded"),
}


@pytest.mark.parametrize("front_ends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_method_refuses_a_hostile_picture_by_name(start_server, front_ends: int) -> None:
    running = start_server(frontends=front_ends)
    with grpc.insecure_channel(running.address) as channel:
        ours = classifier_pb2_grpc.ClassifierServiceStub(channel)
        theirs = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for file, reason in PICTURES.values():
            request = classifier_pb2.ClassifyRequest(model=MODEL, images=[classifier_pb2.Image(encoded=file)])
            tensor = open_inference_pb2.ModelInferRequest(model_name=MODEL)
            tensor.inputs.add(name="images", datatype="BYTES", shape=[1])
            tensor.raw_input_contents.append(struct.pack("<I", len(file)) + file)
            for call, message in ((ours.Classify, request), (theirs.ModelInfer, tensor)):
                with pytest.raises(grpc.RpcError) as caught:
                    call(message)
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert caught.value.details() == f"images[0]: {reason}"
            good = classifier_pb2.ClassifyRequest(model=MODEL, images=[classifier_pb2.Image(encoded=JPEG)])
            both = {"bad": request, "good": good}
            streamed = [classifier_pb2.ClassifyStreamRequest(id=name, request=both[name]) for name in both]
            answers = {answer.id: answer for answer in ours.ClassifyStream(iter(streamed))}
            assert answers["bad"].error.message == f"images[0]: {reason}"
            assert len(answers["good"].response.classifications) == 1
            [answer] = theirs.ModelStreamInfer(iter([tensor]))
            assert answer.error_message == f"images[0]: {reason}"


class Watched(bytes):
    """A file that knows which threads looked at how it begins."""

    def __init__(self, _: bytes) -> None:
        self.readers: list[str] = []

    def startswith(self, *arguments: object) -> bool:
        self.readers.append(threading.current_thread().name)
        return super().startswith(*arguments)


MANIFEST = manifest_pb2.Manifest(
    input=manifest_pb2.Input(height=8, width=8, channels=3),
    preprocessing=manifest_pb2.Preprocessing(
        resize_shorter_px=8, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
    ),
)


def test_no_header_is_read_on_the_event_loop() -> None:
    file = Watched(PNG)

    async def scenario() -> None:
        decoder = Decoder(1, Limits(pictures.Limits(), 10**9, 10**9))
        await decoder.decode([file], MANIFEST)
        decoder.close()

    asyncio.run(scenario())
    assert file.readers
    assert {name.partition("_")[0] for name in file.readers} == {"headers"}


@pytest.mark.parametrize(("size", "count"), [(100, 32), (1 << 20, 4), (3 << 20, 2), (10 << 20, 1)])
def test_a_job_reads_the_headers_of_some_images_or_megabytes(size: int, count: int) -> None:
    """So a request of many waits for its turn again and again."""
    file = PNG + bytes(max(0, size - len(PNG)))
    sources = deque(enumerate([file] * 40))
    assert len(decoding._check_some(sources, MANIFEST, pictures.Limits()).made) == count
    assert len(sources) == 40 - count
