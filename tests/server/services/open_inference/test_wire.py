"""A request is scanned, not parsed: it reads as protobuf's parser would have it, without a copy."""

import random

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from modelzoo.v1 import manifest_pb2
from modelzoo.v1 import open_inference_pb2 as messages
from server.errors import InvalidRequestError
from server.rpc import wire
from server.services.open_inference import tensors
from server.services.open_inference.request import INSIDE_INFER_REQUEST, read_infer_request
from tests.watched import Watched

NO_LIMIT = 1 << 40
Request = messages.ModelInferRequest
# Fields whose place, tag, type or length is not what a serializer writes.
UNUSUAL = (
    b"\x3a\x02ab",  # raw contents, before other fields perhaps
    b"\x0a\x01x",  # a name, after others perhaps
    b"\xba\x00\x01z",  # a tag of two bytes where one would do
    b"\x3a\x81\x80\x80\x80\x00q",  # a length of five bytes
    b"\x3a\x81\x80\x80\x80\x80\x00q",  # of six, which is one too many
    b"\x3b\x3a\x01z\x3c",  # a group with something like raw contents in it
    b"\x2b\x2a\x01\xff\x2c",  # a group with something like an input in it, which is none
    b"\x38\x01",  # raw contents that are a number
    b"\x78\x05",  # a field that nobody knows
    b"\x7a\x02hi",
    b"\x2a\x02\x2a\x00",  # an input with empty contents
    b"\x22\x06\x0a\x01p\x12\x01\x08",  # a parameter that is cut
)


def make(chance: random.Random) -> bytes:
    """Serialize a request of any kind."""
    request = Request(model_name="m" * chance.randrange(140), model_version="1" * chance.randrange(2))
    request.id = "7" * chance.randrange(3)
    for name in "ab"[: chance.randrange(3)]:
        request.parameters[name].int64_param = chance.randrange(-5, 5)
    for _ in range(chance.randrange(3)):
        shape = [chance.randrange(-1, 300) for _ in range(chance.randrange(5))]
        given = request.inputs.add(name="images", datatype="UINT8", shape=shape)
        if chance.random() < 0.3:
            given.parameters["shared_memory_region"].string_param = "r"
        if chance.random() < 0.3:
            given.contents.uint_contents.extend(chance.choices(range(256), k=9))
            given.contents.int64_contents.append(-1)
            given.contents.fp32_contents.append(0.5)
            given.contents.bytes_contents.append(b"xx")
    for _ in range(chance.randrange(3)):
        request.outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    request.raw_input_contents.extend(
        chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(4))
    )
    return request.SerializeToString()


def mutate(chance: random.Random, body: bytes) -> bytes:
    """Change some bytes of a message, put some in, take some out, or put an unusual field at an end."""
    changed = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2))):
        position = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if position < len(changed):
                changed[position] = chance.randrange(256)
            case 1:
                changed[position:position] = chance.randbytes(chance.randrange(1, 4))
            case 2:
                del changed[position : position + chance.randrange(1, 6)]
            case 3:
                changed[position:position] = chance.choice(UNUSUAL)
            case 4:
                changed += chance.choice(UNUSUAL)
            case _:
                changed[:0] = chance.choice(UNUSUAL)
    return bytes(changed)


def compare(body: bytes) -> str:
    """Hold the scanner against the parser; tells what both made of a message."""
    try:
        parsed = Request.FromString(body)
    except DecodeError:
        with pytest.raises(InvalidRequestError):
            read_infer_request(body, NO_LIMIT)
        return "refused"
    read = read_infer_request(body, NO_LIMIT)
    assert [bytes(content) for content in read.raw] == list(parsed.raw_input_contents)
    parsed.ClearField("raw_input_contents")
    assert read.message.SerializeToString(deterministic=True) == parsed.SerializeToString(deterministic=True)
    wire.count_fields(body, NO_LIMIT, INSIDE_INFER_REQUEST)  # refuses nothing that the parser takes
    return "cut" if read.raw and read.raw[0].obj is body else "parsed"


def fuzz(seed: int, count: int) -> None:
    chance = random.Random(seed)
    seeds = [make(chance) for _ in range(2000)]
    outcomes = {"refused": 0, "cut": 0, "parsed": 0}
    for _ in range(count):
        body = mutate(chance, chance.choice(seeds))
        try:
            outcomes[compare(body)] += 1
        except Exception as error:
            raise AssertionError(f"the scanner and the parser differ on {body.hex()}") from error
    assert min(outcomes.values()) > count / 10  # else this would show little


def test_the_scanner_reads_what_the_parser_reads() -> None:
    fuzz(seed=0, count=20_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_mutated_requests_are_read_as_the_parser_reads_them() -> None:
    fuzz(seed=1, count=1_000_000)


def test_what_serializers_write_is_cut_and_never_copied() -> None:
    """The rows that the batcher gets lie in the message as it came."""
    images = np.arange(2 * 32 * 32, dtype=np.uint8).reshape(2, 32, 32, 1)
    request = Request(model_name="m", id="7", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    request.outputs.add(name="probabilities")
    body = request.SerializeToString()
    read = read_infer_request(body, NO_LIMIT)
    shape = manifest_pb2.Input(height=32, width=32, channels=1)
    rows = tensors.pixels(tensors.request_input(read, shape, 10), None, shape)
    np.testing.assert_array_equal(rows, images)
    assert np.shares_memory(rows, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_an_unusual_field_is_read_as_the_parser_reads_it(unusual: bytes) -> None:
    body = Request(model_name="m", raw_input_contents=[b"abc"]).SerializeToString()
    for message in (unusual + body, body + unusual, body + unusual + body):
        compare(message)


def test_a_request_may_have_as_many_fields_as_allowed_and_not_one_more() -> None:
    request = Request(model_name="m", raw_input_contents=[b"abc"] * 3)
    given = request.inputs.add(name="images", datatype="UINT8", shape=[300, 1, 1])  # six fields, of which
    given.contents.bytes_contents.extend([b""] * 5)  # one is four bytes of numbers, one has five fields
    fields = 1 + 1 + (3 + 4 + 1 + 5) + 3
    body = request.SerializeToString()
    assert len(read_infer_request(body, fields).raw) == 3
    for most in range(1, fields):
        with pytest.raises(InvalidRequestError, match=f"request: more than {most} fields"):
            read_infer_request(body, most)


@pytest.mark.parametrize("tag", range(1, 8))
def test_fields_beyond_the_limit_are_not_looked_at(tag: int) -> None:
    limit = 100
    body = Watched(bytes([tag << 3 | 2, 0]) * 1_000_000)
    with pytest.raises(InvalidRequestError, match=f"request: more than {limit} fields"):
        read_infer_request(body, limit)
    assert body.looks < 10 * limit
