"""Shared memory: tensors go through it, and nothing that a client does to it harms the server."""

import asyncio
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from export import pipeline
from export.data import datasets
from export.training import train
from modelzoo.v1 import open_inference_pb2 as messages
from server.services.open_inference.shared_memory import Place, Regions

MODEL = "lenet5-digits"
NOTHING = np.zeros((1, 32, 32, 1), np.uint8)
IMAGE_BYTES, ANSWER_BYTES = NOTHING.nbytes, 10 * 4
Register = messages.SystemSharedMemoryRegisterRequest
Parameter = messages.InferParameter

MakeMemory = Callable[[bytes], Path]


@pytest.fixture
def tensors(sharers):
    """Ask a server that allows it."""
    return sharers


def test_pixels_come_out_of_a_region_and_probabilities_go_into_one(
    tensors, memory: MakeMemory, images: np.ndarray, exported: dict[str, pipeline.Exported]
) -> None:
    """Both at an offset in their region, the regions at an offset in their memory."""
    images = images[:5]
    given = memory(b"?" * 100 + b"!" * 7 + images.tobytes() + b"?" * 50)
    taken = memory(b"." * 500)
    tensors.register("in", given, 7 + images.nbytes, 100)
    tensors.register("out", taken, 300, 40)
    into = tensors.wanted(**tensors.region("out", 260, 3))
    request = tensors.placed(tensors.region("in", images.nbytes, 7), into, images=5)
    response = tensors.stub.ModelInfer(request)
    assert list(response.raw_output_contents) == [b""]
    [output] = response.outputs
    assert (output.datatype, list(output.shape)) == ("FP32", [5, 10])
    assert dict(output.parameters) == tensors.region("out", 5 * ANSWER_BYTES, 3)
    content = taken.read_bytes()
    answers = np.frombuffer(content[43:243], "<f4").reshape(5, 10)
    np.testing.assert_allclose(answers, train.probabilities(exported[MODEL].served, images), atol=1e-5)
    assert content[:43] + content[243:] == b"." * 300  # and nothing else was written
    assert len(content) == 500


def test_encoded_pictures_come_out_of_a_region(
    tensors, memory: MakeMemory, digits: datasets.Split, encode
) -> None:
    files = [encode(image) for image in digits.images[:3]]
    content = b"".join(struct.pack("<I", len(file)) + file for file in files)
    path = memory(content)
    tensors.register("r", path, len(content))
    response = tensors.stub.ModelInfer(
        tensors.placed(tensors.region("r", len(content)), images=3, files=True)
    )
    answers = tensors.probabilities(response)
    raw = tensors.probabilities(tensors.stub.ModelInfer(tensors.files(*files)))
    np.testing.assert_array_equal(answers, raw)
    code, details = tensors.refusal(
        tensors.stub.ModelInfer, tensors.placed(tensors.region("r", len(content) - 1), images=3, files=True)
    )
    assert (code, details) == ("INVALID_ARGUMENT", "inputs[0]: element 2 ends after the content does")


def test_large_tensors_go_through_regions_as_small_ones_do(
    tensors, memory: MakeMemory, encode, digits: datasets.Split
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 1), np.uint8)
    content = struct.pack("<I", len(file := encode(noise))) + file
    assert len(content) > 1 << 20
    tensors.register("r", memory(content), len(content))
    response = tensors.stub.ModelInfer(tensors.placed(tensors.region("r", len(content)), files=True))
    raw = tensors.probabilities(tensors.stub.ModelInfer(tensors.files(file)))
    np.testing.assert_array_equal(tensors.probabilities(response), raw)


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
def test_more_than_a_megabyte_is_not_copied_on_the_event_loop(memory: MakeMemory, size: int) -> None:
    async def scenario() -> None:
        regions, content = Regions(), np.random.default_rng(0).bytes(size)
        path = memory(content)
        regions.register("r", path.name, 0, size)
        place = Place("r", 0, size, "inputs[0]")
        for copy in (lambda: regions.read(place), lambda: regions.write(place, content)):
            task = asyncio.ensure_future(copy())
            await asyncio.sleep(0)  # its first step: one more is taken where a thread copies
            assert task.done() is (size == 1 << 20)
            if not task.done():
                regions.unregister("r")  # what is being copied goes on
            assert bytes(await task or content) == content
            if size > 1 << 20:
                regions.register("r", path.name, 0, size)
        regions.unregister("")

    asyncio.run(scenario())


def test_a_copy_that_nobody_waits_for_any_more_lets_go_of_its_file(memory: MakeMemory, wait_for) -> None:
    async def scenario() -> None:
        regions = Regions()
        path = memory(bytes(2 << 20))
        regions.register("r", path.name, 0, 2 << 20)
        copies = [asyncio.ensure_future(regions.read(Place("r", 0, 2 << 20, "f"))) for _ in range(20)]
        await asyncio.sleep(0)
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        regions.unregister("")
        await asyncio.to_thread(wait_for, lambda: held(path) == 0)

    asyncio.run(scenario())


def held(path: Path) -> int:
    """Count the descriptors of a file that this process has."""
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def test_regions_are_listed_and_forgotten(tensors, memory: MakeMemory) -> None:
    status = tensors.stub.SystemSharedMemoryStatus
    unregister = tensors.stub.SystemSharedMemoryUnregister
    keys = {name: memory(bytes(100)).name for name in "abc"}
    for name, key in keys.items():
        tensors.stub.SystemSharedMemoryRegister(Register(name=name, key=key, offset=10, byte_size=90))
    told = status(messages.SystemSharedMemoryStatusRequest()).regions
    assert {name: one.key for name, one in told.items()} == keys
    [one] = status(messages.SystemSharedMemoryStatusRequest(name="b")).regions.values()
    assert (one.name, one.key, one.offset, one.byte_size) == ("b", keys["b"], 10, 90)
    for _ in range(2):  # what is not there is gone already
        unregister(messages.SystemSharedMemoryUnregisterRequest(name="b"))
        code, details = tensors.refusal(status, messages.SystemSharedMemoryStatusRequest(name="b"))
        assert (code, details) == ("NOT_FOUND", "no region is called 'b'")
    assert set(status(messages.SystemSharedMemoryStatusRequest()).regions) == {"a", "c"}
    unregister(messages.SystemSharedMemoryUnregisterRequest())
    assert not status(messages.SystemSharedMemoryStatusRequest()).regions


def test_a_name_is_given_once(tensors, memory: MakeMemory) -> None:
    request = Register(name="a", key=memory(bytes(9)).name, byte_size=9)
    tensors.stub.SystemSharedMemoryRegister(request)
    code, details = tensors.refusal(tensors.stub.SystemSharedMemoryRegister, request)
    assert code == "ALREADY_EXISTS"
    assert details == "a region called 'a' is registered; unregister it first"


def test_nobody_shares_memory_unless_a_setting_allows_it(server, tensors_of, memory: MakeMemory) -> None:
    tensors = tensors_of(server)
    stub = tensors.stub
    request = Register(name="a", key=memory(bytes(IMAGE_BYTES)).name, byte_size=IMAGE_BYTES)
    assert tensors.refusal(stub.SystemSharedMemoryRegister, request) == (
        "PERMISSION_DENIED",
        "shared memory needs a server with --allow-client-shm",
    )
    assert not stub.SystemSharedMemoryStatus(messages.SystemSharedMemoryStatusRequest()).regions
    stub.SystemSharedMemoryUnregister(messages.SystemSharedMemoryUnregisterRequest())
    assert tensors.refusal(stub.ModelInfer, tensors.placed(tensors.region("a", IMAGE_BYTES))) == (
        "INVALID_ARGUMENT",
        "inputs[0]: no region is called 'a'",
    )


def test_shared_memory_of_cuda_is_refused_and_forgetting_it_is_not(tensors) -> None:
    stub = tensors.stub
    assert not stub.CudaSharedMemoryStatus(messages.CudaSharedMemoryStatusRequest()).regions
    for name in ("", "a"):
        stub.CudaSharedMemoryUnregister(messages.CudaSharedMemoryUnregisterRequest(name=name))
    code, _ = tensors.refusal(stub.CudaSharedMemoryStatus, messages.CudaSharedMemoryStatusRequest(name="a"))
    assert code == "NOT_FOUND"
    request = messages.CudaSharedMemoryRegisterRequest(name="a", raw_handle=bytes(64), byte_size=8)
    code, details = tensors.refusal(stub.CudaSharedMemoryRegister, request)
    assert code == "UNIMPLEMENTED"
    assert "there is no shared memory of CUDA here" in details


@pytest.mark.parametrize("left", [0, 1, IMAGE_BYTES - 1])
def test_memory_that_shrank_is_refused_and_ends_nothing(tensors, memory: MakeMemory, left: int) -> None:
    """A server that had mapped it would get SIGBUS here."""
    path = memory(bytes(IMAGE_BYTES))
    tensors.register("a", path, IMAGE_BYTES)
    os.truncate(path, left)
    reason = "the region's memory is smaller than when it was registered"
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.placed(tensors.region("a", IMAGE_BYTES)))
    assert (code, details) == ("INVALID_ARGUMENT", f"inputs[0]: {reason}")
    at_the_end = tensors.wanted(**tensors.region("a", ANSWER_BYTES, IMAGE_BYTES - ANSWER_BYTES))
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.pixels(NOTHING, at_the_end))
    assert (code, details) == ("INVALID_ARGUMENT", f"outputs[0]: {reason}")
    assert path.stat().st_size == left


def test_memory_that_has_no_name_any_more_still_works(tensors, memory: MakeMemory) -> None:
    path = memory(bytes(IMAGE_BYTES))
    tensors.register("a", path, IMAGE_BYTES)
    path.unlink()
    tensors.stub.ModelInfer(tensors.placed(tensors.region("a", IMAGE_BYTES)))


def test_pixels_that_change_while_they_wait_change_no_answer(
    start_server, gates, tensors_of, memory: MakeMemory, images: np.ndarray
) -> None:
    tensors, network = tensors_of(start_server(open_network=gates, allow_client_shm=True)), gates[MODEL]
    path = memory(images[:1].tobytes())
    tensors.register("a", path, IMAGE_BYTES)
    request = tensors.placed(tensors.region("a", IMAGE_BYTES))
    expected = tensors.stub.ModelInfer(request)
    network.shut()
    waiting = tensors.stub.ModelInfer.future(request)
    network.entered.acquire()
    path.write_bytes(bytes(IMAGE_BYTES))
    network.gate.set()
    assert waiting.result() == expected


def test_an_output_whose_region_is_gone_fails_its_request_alone(
    start_server, gates, tensors_of, memory: MakeMemory
) -> None:
    tensors, network = tensors_of(start_server(open_network=gates, allow_client_shm=True)), gates[MODEL]
    tensors.register("a", memory(bytes(ANSWER_BYTES)), ANSWER_BYTES)
    network.shut()
    waiting = tensors.stub.ModelInfer.future(
        tensors.pixels(NOTHING, tensors.wanted(**tensors.region("a", ANSWER_BYTES)))
    )
    network.entered.acquire()
    tensors.stub.SystemSharedMemoryUnregister(messages.SystemSharedMemoryUnregisterRequest())
    network.gate.set()
    assert waiting.exception().code() == grpc.StatusCode.INVALID_ARGUMENT
    assert waiting.exception().details() == "outputs[0]: no region is called 'a'"
    assert len(tensors.probabilities(tensors.stub.ModelInfer(tensors.pixels(NOTHING)))) == 1


def test_what_comes_out_of_regions_counts_as_in_flight(
    start_server, gates, tensors_of, memory: MakeMemory
) -> None:
    size = 60 * IMAGE_BYTES
    running = start_server(
        open_network=gates, allow_client_shm=True, max_message_bytes=1 << 16, max_bytes_in_flight=1 << 16
    )
    tensors, network = tensors_of(running), gates[MODEL]
    tensors.register("a", memory(bytes(size)), size)
    request = tensors.placed(tensors.region("a", size), images=60)
    network.shut()
    first = tensors.stub.ModelInfer.future(request)
    network.entered.acquire()
    code, details = tensors.refusal(tensors.stub.ModelInfer, request)
    assert code == "RESOURCE_EXHAUSTED"
    assert re.fullmatch(r"bytes in flight: 1\d\d,\d{3} of 65,536", details)
    network.gate.set()
    assert len(tensors.probabilities(first.result())) == 60
    assert len(tensors.probabilities(tensors.stub.ModelInfer(request))) == 60  # the first is counted out


def test_a_server_that_stops_lets_go_of_every_region(start_server, tensors_of, memory: MakeMemory) -> None:
    running = start_server(allow_client_shm=True)
    path = memory(b"x")
    tensors = tensors_of(running)
    for name in "abc":
        tensors.register(name, path, 1)

    assert held(path) == 3
    running.stop()
    assert held(path) == 0
