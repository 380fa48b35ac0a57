"""What the tests of the Open Inference Protocol share: a client that says what it likes."""

import contextlib
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from export import pipeline
from export.data import datasets
from modelzoo.v1 import open_inference_pb2 as messages
from modelzoo.v1 import open_inference_pb2_grpc

MODEL = "lenet5-digits"
Request = messages.ModelInferRequest
Parameter = messages.InferParameter


class Tensors:
    """Makes requests about lenet5, asks a server, and reads its answers."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)

    def pixels(self, images: np.ndarray, *more: Request) -> Request:
        """Ask about raw pixels, uint8 [N, H, W, C]."""
        request = Request(model_name=MODEL, raw_input_contents=[images.tobytes()])
        request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
        return merged(request, *more)

    def files(self, *encoded: bytes) -> Request:
        """Ask about encoded pictures, as raw BYTES."""
        raw = b"".join(struct.pack("<I", len(file)) + file for file in encoded)
        request = Request(model_name=MODEL, raw_input_contents=[raw])
        request.inputs.add(name="images", datatype="BYTES", shape=[len(encoded)])
        return request

    def placed(
        self, place: dict[str, Parameter], *more: Request, images: int = 1, files: bool = False
    ) -> Request:
        """Ask about what is in shared memory."""
        request = Request(model_name=MODEL)
        shape = [images] if files else [images, 32, 32, 1]
        request.inputs.add(
            name="images", datatype="BYTES" if files else "UINT8", shape=shape, parameters=place
        )
        return merged(request, *more)

    def region(self, name: str, size: int, offset: int | None = None) -> dict[str, Parameter]:
        """Say where in shared memory something is."""
        parameters = {
            "shared_memory_region": Parameter(string_param=name),
            "shared_memory_byte_size": Parameter(int64_param=size),
        }
        if offset is not None:
            parameters["shared_memory_offset"] = Parameter(int64_param=offset)
        return parameters

    def register(self, name: str, path: Path, size: int, offset: int = 0) -> None:
        """Register a region of a memory."""
        self.stub.SystemSharedMemoryRegister(
            messages.SystemSharedMemoryRegisterRequest(
                name=name, key=f"/{path.name}", offset=offset, byte_size=size
            )
        )

    def wanted(self, **parameters: Parameter) -> Request:
        """Ask for the output by its name."""
        request = Request()
        request.outputs.add(name="probabilities", parameters=parameters)
        return request

    def probabilities(self, response: messages.ModelInferResponse) -> np.ndarray:
        """Read the answer, float32 [N, K]."""
        [output], [raw] = response.outputs, response.raw_output_contents
        assert (output.name, output.datatype) == ("probabilities", "FP32")
        return np.frombuffer(raw, "<f4").reshape(output.shape)

    def texts(self, response: messages.ModelInferResponse) -> list[str]:
        """Read the answer of a classification, its rows one after the other."""
        [output], [raw] = response.outputs, response.raw_output_contents
        assert (output.name, output.datatype) == ("probabilities", "BYTES")
        texts, position = [], 0
        while position < len(raw):
            [length] = struct.unpack_from("<I", raw, position)
            texts.append(raw[position + 4 : position + 4 + length].decode())
            position += 4 + length
        assert len(texts) == np.prod(output.shape)
        return texts

    def refusal(self, call: Callable[..., object], request: object) -> tuple[str, str]:
        """Make a call that is refused; give its status and the reason."""
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert len(caught.value.details()) < 500
        return caught.value.code().name, caught.value.details()


def merged(*parts: Request) -> Request:
    whole = Request()
    for part in parts:
        whole.MergeFrom(part)
    return whole


@pytest.fixture
def tensors_of() -> Iterator[Callable[..., Tensors]]:
    """Ask a running server."""
    with contextlib.ExitStack() as stack:
        yield lambda running: Tensors(stack.enter_context(grpc.insecure_channel(running.address)))


@pytest.fixture
def tensors(server, tensors_of: Callable[..., Tensors]) -> Iterator[Tensors]:
    """Ask the shared server, which answers after every test."""
    tensors = tensors_of(server)
    yield tensors
    answers_still(tensors)


@pytest.fixture(scope="module")
def sharing(server, repository: Path) -> Iterator[object]:
    """A server that lets clients share memory."""
    settings = {"repository": repository, "grpc_port": 0, "metrics_port": 0, "device": "cpu"}
    running = type(server)(type(server.settings)(**settings, allow_client_shm=True))
    yield running
    running.stop()


@pytest.fixture
def sharers(sharing, tensors_of: Callable[..., Tensors]) -> Iterator[Tensors]:
    """Ask that server, which answers after every test; it holds no region before and after."""
    tensors = tensors_of(sharing)
    yield tensors
    tensors.stub.SystemSharedMemoryUnregister(messages.SystemSharedMemoryUnregisterRequest())
    answers_still(tensors)


def answers_still(tensors: Tensors) -> None:
    answers = tensors.stub.ModelInfer(tensors.pixels(np.zeros((2, 32, 32, 1), np.uint8)))
    assert tensors.probabilities(answers).sum(axis=1) == pytest.approx([1, 1], abs=1e-5)


@pytest.fixture
def memory() -> Iterator[Callable[[bytes], Path]]:
    """Make shared memories with a content."""
    made: list[Path] = []

    def make(content: bytes) -> Path:
        made.append(Path("/dev/shm") / f"modelzoo-test-{secrets.token_hex(8)}")
        made[-1].write_bytes(content)
        return made[-1]

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def images(digits: datasets.Split, exported: dict[str, pipeline.Exported]) -> np.ndarray:
    """Seventy held-out digits as lenet5 sees them, uint8 [70, 32, 32, 1]: more than two batches."""
    one = exported[MODEL].manifest
    return digits.fitted(one.input, one.preprocessing).images[:70]
