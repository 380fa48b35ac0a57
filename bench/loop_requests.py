"""Requests for `bench.loop_occupancy`: as large as they may be, and as hostile as was thought of."""

import io
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message
from PIL import Image

from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc, open_inference_pb2, open_inference_pb2_grpc

_OURS, _OPEN = "/modelzoo.v1.ClassifierService/", "/inference.GRPCInferenceService/"
_LARGE_BYTES = 60_000_000  # of 64 MiB that a message may have
_IMAGES = 256  # of a request, at the most
_LABELS = 32_768  # of an answer, at the most
_REGIONS = 1_024
_MEMORIES = Path("/dev/shm")  # noqa: S108 - where shared memory is


@dataclass(frozen=True)
class Request:
    """One message to one method.

    Attributes:
        parsed: what it is parsed as; None where it is refused before.
        streamed: whether the method takes a stream.
    """

    name: str
    method: str
    body: bytes
    parsed: type[Message] | None = None
    streamed: bool = False


def requests(channel: grpc.Channel, model: str) -> Iterator[Request]:
    """Make the requests about a model, one after the other, for each takes some memory.

    Raises:
        grpc.RpcError: there is no such model.
    """
    described = classifier_pb2_grpc.ClassifierServiceStub(channel).GetModel(
        classifier_pb2.GetModelRequest(name=model)
    )
    shape = described.manifest.input
    axes = (shape.height, shape.width, shape.channels)
    yield from _legal(model, axes, len(described.labels))
    yield from _described(model)
    yield from _hostile_pictures(model)
    yield from _hostile_messages(model)
    yield from _regions(channel, model, axes)


def _legal(model: str, axes: tuple[int, int, int], label_count: int) -> Iterator[Request]:
    row = np.zeros(axes, np.uint8)
    images = max(1, min(_IMAGES, _LARGE_BYTES // row.nbytes))
    pixels = classifier_pb2.Pixels(height=axes[0], width=axes[1], channels=axes[2], data=row.tobytes())
    raw = [classifier_pb2.Image(pixels=pixels)] * images
    yield _classify("pixels", model, raw)
    yield _classify("pixels, streamed", model, raw, streamed=True)
    small = [classifier_pb2.Image(encoded=_file(64, 64, "PNG"))] * _IMAGES
    best = min(label_count, _LABELS // _IMAGES)
    yield _classify("files, many labels", model, small, best)
    yield _classify("files, many labels, streamed", model, small, best, streamed=True)
    yield _classify("24 megapixels", model, [classifier_pb2.Image(encoded=_file(6000, 4000, "JPEG"))])
    tensor = [images, *axes]
    yield _infer("tensor", model, tensor, bytes(row.nbytes * images))
    yield _infer("tensor, streamed", model, tensor, bytes(row.nbytes * images), streamed=True)
    yield _infer("tensor, labels", model, tensor, bytes(row.nbytes * images), labels=best)
    message = open_inference_pb2.ModelInferRequest(model_name=model)
    typed = message.inputs.add(name="images", datatype="UINT8", shape=tensor)
    typed.contents.uint_contents.extend([255] * (row.nbytes * images))
    yield Request("typed tensor", f"{_OPEN}ModelInfer", message.SerializeToString(), type(message))
    file = _file(256, 256, "PNG")
    content = (struct.pack("<I", len(file)) + file) * _IMAGES
    yield _infer("tensor of files", model, [_IMAGES], content)


def _described(model: str) -> Iterator[Request]:
    ours, theirs = classifier_pb2, open_inference_pb2
    for message in (
        ours.ListModelsRequest(),
        ours.GetModelRequest(name=model),
        theirs.ModelStatisticsRequest(),
        theirs.ModelConfigRequest(name=model),
        theirs.RepositoryIndexRequest(),
    ):
        name = type(message).__name__.removesuffix("Request")
        service = _OURS if isinstance(message, ours.ListModelsRequest | ours.GetModelRequest) else _OPEN
        yield Request(name, service + name, message.SerializeToString(), type(message))


def _hostile_pictures(model: str) -> Iterator[Request]:
    jpeg, png = _file(64, 64, "JPEG"), _file(64, 64, "PNG")
    scan = jpeg.index(b"\xff\xda") + 14
    chunk = bytes(4) + b"teSt" + bytes(4)
    for name, file in {
        "jpeg of empty segments": jpeg[:2] + b"\xff\xe1\x00\x02" * (_LARGE_BYTES // 4) + jpeg[2:],
        "jpeg of fill bytes": jpeg[:2] + b"\xff" * _LARGE_BYTES + jpeg[2:],
        "jpeg of tables": jpeg[:2] + (b"\xff\xdb\xff\xff" + bytes(65_533)) * 900 + jpeg[2:],
        "jpeg of escapes": jpeg[:scan] + b"\xff\x00" * (_LARGE_BYTES // 2) + jpeg[scan:],
        "jpeg of scans": jpeg[:scan] + b"\xff\xda\x00\x02" * (_LARGE_BYTES // 4),
        "png of empty chunks": png[:33] + chunk * (_LARGE_BYTES // len(chunk)) + png[33:],
        "no picture": b"?" * _LARGE_BYTES,
    }.items():
        yield _classify(name, model, [classifier_pb2.Image(encoded=file)])
    half = jpeg[:2] + b"\xff\xe1\x00\x02" * 50_000
    yield _classify("many of them", model, [classifier_pb2.Image(encoded=half)] * _IMAGES)
    yield _infer(
        "many of them as a tensor", model, [_IMAGES], (struct.pack("<I", len(half)) + half) * _IMAGES
    )


def _hostile_messages(model: str) -> Iterator[Request]:
    pair = _LARGE_BYTES // 2
    for number in range(1, 8):
        name = f"inference request of fields {number}"
        yield Request(name, f"{_OPEN}ModelInfer", bytes([number << 3 | 2, 0]) * pair)
    yield Request("classify request of images", f"{_OURS}Classify", b"\x1a\x00" * pair)
    yield _infer("elements without end", model, [_IMAGES], bytes(_LARGE_BYTES))
    long = "x" * _LARGE_BYTES
    ours = classifier_pb2.ClassifyRequest(model=long)
    yield Request("name without end", f"{_OURS}Classify", ours.SerializeToString(), type(ours))
    theirs = open_inference_pb2.ModelInferRequest(model_name=long)
    yield Request("name without end, theirs", f"{_OPEN}ModelInfer", theirs.SerializeToString(), type(theirs))
    theirs = open_inference_pb2.ModelInferRequest(model_name=model)
    theirs.inputs.add(name="images", datatype="UINT8", shape=[1] * 1_000)
    yield Request("axes without end", f"{_OPEN}ModelInfer", theirs.SerializeToString(), type(theirs))


def _regions(channel: grpc.Channel, model: str, axes: tuple[int, int, int]) -> Iterator[Request]:
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    size = int(np.prod(axes))
    images = max(1, min(_IMAGES, _LARGE_BYTES // size))
    with _memory(600 << 20) as key:
        for number in range(_REGIONS):
            stub.SystemSharedMemoryRegister(
                open_inference_pb2.SystemSharedMemoryRegisterRequest(
                    name=f"{number}", key=key, byte_size=600 << 20
                )
            )
        yield _placed("region of a tensor", model, [images, *axes], images * size)
        yield _placed("region that is too large", model, [1, *axes], 600 << 20)
        yield _placed("region of files", model, [1], _LARGE_BYTES)
        message = open_inference_pb2.SystemSharedMemoryStatusRequest()
        yield Request("regions, listed", f"{_OPEN}SystemSharedMemoryStatus", b"", type(message))
        stub.SystemSharedMemoryUnregister(open_inference_pb2.SystemSharedMemoryUnregisterRequest())


@contextmanager
def _memory(size_bytes: int) -> Iterator[str]:
    """Make a shared memory that takes none before it is written; gives its key."""
    path = _MEMORIES / f"modelzoo-bench-{uuid.uuid4().hex}"
    path.touch()
    try:
        os.truncate(path, size_bytes)
        yield path.name
    finally:
        path.unlink()


def _classify(
    name: str,
    model: str,
    images: list[classifier_pb2.Image],
    top_k: int | None = None,
    *,
    streamed: bool = False,
) -> Request:
    message = classifier_pb2.ClassifyRequest(model=model, images=images, top_k=top_k)
    if streamed:
        wrapped = classifier_pb2.ClassifyStreamRequest(request=message)
        body = wrapped.SerializeToString()
        return Request(name, f"{_OURS}ClassifyStream", body, type(wrapped), streamed=True)
    return Request(name, f"{_OURS}Classify", message.SerializeToString(), type(message))


def _infer(
    name: str,
    model: str,
    axes: list[int],
    content: bytes,
    labels: int | None = None,
    *,
    streamed: bool = False,
) -> Request:
    message = open_inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[content])
    message.inputs.add(name="images", datatype="BYTES" if len(axes) == 1 else "UINT8", shape=axes)
    if labels is not None:
        message.outputs.add(name="probabilities").parameters["classification"].int64_param = labels
    method = "ModelStreamInfer" if streamed else "ModelInfer"
    return Request(name, _OPEN + method, message.SerializeToString(), type(message), streamed)


def _placed(name: str, model: str, axes: list[int], size_bytes: int) -> Request:
    message = open_inference_pb2.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name="images", datatype="BYTES" if len(axes) == 1 else "UINT8", shape=axes)
    tensor.parameters["shared_memory_region"].string_param = "0"
    tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes
    return Request(name, f"{_OPEN}ModelInfer", message.SerializeToString(), type(message))


def _file(width_px: int, height_px: int, form: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width_px, height_px), 50).convert("RGB").save(file, form)
    return file.getvalue()
