"""Regions and places that are not what they should be are refused, each with its reason."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelzoo.v1 import open_inference_pb2 as messages

NOTHING = np.zeros((1, 32, 32, 1), np.uint8)
IMAGE_BYTES, ANSWER_BYTES = NOTHING.nbytes, 10 * 4
Register = messages.SystemSharedMemoryRegisterRequest
Parameter, Request = messages.InferParameter, messages.ModelInferRequest

MakeMemory = Callable[[bytes], Path]


@pytest.fixture
def tensors(sharers):
    """Ask a server that allows it."""
    return sharers


@pytest.mark.parametrize(
    "key",
    [  # the last is longer than a name may be
        "",
        "/",
        ".",
        "..",
        "/..",
        "//",
        "../etc/passwd",
        "/../etc/passwd",
        "a/b",
        "//etc/passwd",
        "\0",
        "a\0",
        "k" * 256,
    ],
)
def test_a_key_that_is_no_plain_name_is_refused(tensors, key: str) -> None:
    request = Register(name="a", key=key, byte_size=1)
    assert tensors.refusal(tensors.stub.SystemSharedMemoryRegister, request) == (
        "INVALID_ARGUMENT",
        "key: not the name of a shared memory",
    )


def test_what_is_no_shared_memory_is_refused(tensors, memory: MakeMemory, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        code, details = tensors.refusal(
            tensors.stub.SystemSharedMemoryRegister, Register(name="a", key=path.name, byte_size=1)
        )
        assert code == "INVALID_ARGUMENT"
        return details

    path = memory(b"")
    path.unlink()
    assert refused(path) == f"key: {path.name!r} cannot be opened: no such file or directory"
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100))
    path.symlink_to(secret)
    assert "cannot be opened: too many levels of symbolic links" in refused(path)
    path.unlink()
    os.mkfifo(path)
    assert refused(path) == f"key: {path.name!r} is no shared memory"
    path.unlink()
    path.mkdir()
    try:
        assert "cannot be opened: is a directory" in refused(path)
    finally:
        path.rmdir()


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 0), (100, 0), (0, 101), (1, 100), (100, 1), (2**64 - 1, 1), (1, 2**64 - 1), (2**63, 2**63)],
)
def test_a_region_that_is_not_in_its_memory_is_refused(
    tensors, memory: MakeMemory, offset: int, size: int
) -> None:
    key = memory(bytes(100)).name
    request = Register(name="a", key=key, offset=offset, byte_size=size)
    code, details = tensors.refusal(tensors.stub.SystemSharedMemoryRegister, request)
    assert code == "INVALID_ARGUMENT"
    assert details == f"byte_size: {size} bytes from {offset} on do not lie in {key!r}, which has 100"


@pytest.mark.parametrize("name", ["", "n" * 256])
def test_a_region_needs_a_name_that_can_be_said(tensors, memory: MakeMemory, name: str) -> None:
    request = Register(name=name, key=memory(b"x").name, byte_size=1)
    assert tensors.refusal(tensors.stub.SystemSharedMemoryRegister, request) == (
        "INVALID_ARGUMENT",
        f"name: {len(name)} characters, not 1 to 255",
    )


def test_there_is_an_end_to_regions(tensors, memory: MakeMemory) -> None:
    key = memory(b"x").name
    register = tensors.stub.SystemSharedMemoryRegister
    for number in range(1024):
        register(Register(name=str(number), key=key, byte_size=1))
    code, details = tensors.refusal(register, Register(name="more", key=key, byte_size=1))
    assert (code, details) == ("RESOURCE_EXHAUSTED", "1024 regions are registered, which is the most")


PLACES = {
    "an unknown region": (("b", IMAGE_BYTES), "no region is called 'b'"),
    "no region": (("", IMAGE_BYTES), "no region is called ''"),
    "a name without end": (("b" * 9000, IMAGE_BYTES), "no region is called 'bbbb"),
    "more than the region": (("a", 1025), "1025 bytes from 0 on do not lie in the region"),
    "beyond the region": (("a", IMAGE_BYTES, 1), "1024 bytes from 1 on do not lie in the region"),
    "before the region": (("a", IMAGE_BYTES, -1), "1024 bytes from -1 on do not lie in the region"),
    "less than nothing": (("a", -1), "-1 bytes from 0 on do not lie in the region"),
    "past any end": (("a", 2**63 - 1, 2**63 - 1), "do not lie in the region, which has 1024"),
    "before any beginning": (("a", -(2**63), -(2**63)), "do not lie in the region, which has 1024"),
    "too little": (("a", IMAGE_BYTES - 1), "1023 bytes of pixels, not 1024"),
    "nothing": (("a", 0), "0 bytes of pixels, not 1024"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_is_not_in_a_region_is_refused(tensors, memory: MakeMemory, case: str) -> None:
    tensors.register("a", memory(bytes(2 * IMAGE_BYTES)), IMAGE_BYTES)  # larger than its region
    place, reason = PLACES[case]
    parameters = tensors.region(*place)
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.placed(parameters))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("inputs[0]: ")
    assert reason in details
    if "pixels" not in reason:
        code, details = tensors.refusal(
            tensors.stub.ModelInfer, tensors.pixels(NOTHING, tensors.wanted(**parameters))
        )
        assert code == "INVALID_ARGUMENT"
        assert details.startswith("outputs[0]: ")


def test_a_place_needs_a_name_and_a_size_of_the_right_types(tensors) -> None:
    good = tensors.region("a", IMAGE_BYTES, 0)
    number, text = Parameter(int64_param=1), Parameter(string_param="1")
    for changed, reason in (
        ({"shared_memory_region": number}, "parameters[shared_memory_region]: not a string_param"),
        ({"shared_memory_byte_size": text}, "parameters[shared_memory_byte_size]: not an int64_param"),
        ({"shared_memory_offset": text}, "parameters[shared_memory_offset]: not an int64_param"),
        ({"shared_memory_byte_size": None}, "parameters[shared_memory_byte_size]: missing"),
    ):
        parameters = {name: value for name, value in (good | changed).items() if value is not None}
        code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.placed(parameters))
        assert (code, details) == ("INVALID_ARGUMENT", f"inputs[0].{reason}")


def test_content_is_in_the_request_or_in_memory(tensors, memory: MakeMemory) -> None:
    tensors.register("a", memory(bytes(IMAGE_BYTES)), IMAGE_BYTES)
    parameters = tensors.region("a", IMAGE_BYTES)
    raw = tensors.placed(parameters, Request(raw_input_contents=[NOTHING.tobytes()]))
    typed = tensors.placed(parameters)
    typed.inputs[0].contents.uint_contents.extend(bytes(IMAGE_BYTES))
    for request in (raw, typed):
        code, _ = tensors.refusal(tensors.stub.ModelInfer, request)
        assert code == "INVALID_ARGUMENT"
    best = tensors.wanted(classification=Parameter(int64_param=1), **parameters)
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.placed(parameters, best))
    assert (code, details) == (
        "INVALID_ARGUMENT",
        "outputs[0]: a classification cannot be written to shared memory",
    )
    small = tensors.wanted(**tensors.region("a", ANSWER_BYTES - 1))
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.placed(parameters, small))
    assert (code, details) == ("INVALID_ARGUMENT", "outputs[0]: 39 bytes for an output of 40")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (False, "629145600 bytes of pixels, not 1024"),
        (True, "629145600 bytes of files, more than the 67108864 allowed"),
    ],
    ids=["pixels", "files"],
)
def test_a_place_that_is_larger_than_its_tensor_may_be_is_refused_before_it_is_copied(
    tensors, memory: MakeMemory, files: bool, reason: str
) -> None:
    """It is more than all requests in flight may have together, which would be the next reason."""
    size = 600 << 20
    path = memory(b"")
    os.truncate(path, size)  # takes no memory until it is written
    tensors.register("a", path, size)
    request = tensors.placed(tensors.region("a", size), files=files)
    assert tensors.refusal(tensors.stub.ModelInfer, request) == ("INVALID_ARGUMENT", f"inputs[0]: {reason}")
    [answer] = tensors.stub.ModelStreamInfer(iter([request]))
    assert answer.error_message == f"inputs[0]: {reason}"
