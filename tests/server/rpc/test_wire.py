"""The look at a request's bytes agrees with protobuf's parser, and minds no bytes at all."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from modelzoo.v1 import classifier_pb2
from server.rpc import wire

NO_LIMIT = 1 << 30
# Field 15, which no request has, with every wire type: 0 varint, 1 64 bits, 2 bytes, 5 32 bits.
FIELDS = {
    "varint": b"\x78\x96\x01",
    "longest varint": b"\x78" + b"\xff" * 9 + b"\x01",
    "64 bits": b"\x79" + bytes(8),
    "bytes": b"\x7a\x03\x18\x18\x18",
    "no bytes": b"\x7a\x00",
    "32 bits": b"\x7d" + bytes(4),
    "tag of two bytes": b"\x80\x01\x05",
}


def random_request(random: np.random.Generator) -> classifier_pb2.ClassifyRequest:
    request = classifier_pb2.ClassifyRequest(model="m" * random.integers(0, 300))
    if random.random() < 0.5:
        request.version = random.integers(-(2**31), 2**31)
    if random.random() < 0.5:
        request.top_k = random.integers(-(2**31), 2**31)
    for _ in range(random.integers(0, 20)):
        kind = random.integers(3)
        image = request.images.add()
        if kind == 0:
            image.encoded = random.bytes(random.integers(0, 400))
        elif kind == 1:
            side = int(random.integers(0, 20))
            image.pixels.CopyFrom(
                classifier_pb2.Pixels(height=side, width=side, channels=1, data=random.bytes(side * side))
            )
    return request


def count_of(request: classifier_pb2.ClassifyRequest) -> int:
    return sum(
        (bool(request.model), request.HasField("version"), request.HasField("top_k"), len(request.images))
    )


def test_the_fields_of_a_request_are_counted_as_protobuf_parses_them() -> None:
    random = np.random.default_rng(0)
    counts = set()
    for _ in range(500):
        request = random_request(random)
        count = wire.count_fields(request.SerializeToString(), NO_LIMIT)
        assert count == count_of(request)
        counts.add(count)
    assert counts >= set(range(1, 20))


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_every_wire_type_is_one_field(name: str) -> None:
    field = FIELDS[name]
    classifier_pb2.ClassifyRequest.FromString(field)  # protobuf takes it as well
    assert wire.count_fields(field, NO_LIMIT) == 1
    assert wire.count_fields(field * 7, NO_LIMIT) == 7


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_cut_anywhere_is_refused(name: str) -> None:
    field = FIELDS[name]
    for length in range(1, len(field)):
        with pytest.raises(ValueError, match=r"truncated|bad varint"):
            wire.count_fields(FIELDS["bytes"] + field[:length], NO_LIMIT)


@pytest.mark.parametrize("kind", [6, 7])
def test_a_wire_type_that_there_is_not_is_refused(kind: int) -> None:
    with pytest.raises(ValueError, match=f"wire type {kind}"):
        wire.count_fields(bytes([15 << 3 | kind]), NO_LIMIT)


def test_a_number_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="bad varint"):
        wire.count_fields(b"\x78" + b"\xff" * 1000, NO_LIMIT)


def test_nothing_has_no_field() -> None:
    assert wire.count_fields(b"", NO_LIMIT) == 0


def test_counting_stops_one_above_the_limit() -> None:
    image = b"\x1a\x00"
    assert wire.count_fields(image * 10, 10) == 10
    assert wire.count_fields(image * 11, 10) == 11
    assert wire.count_fields(image * 1000, 10) == 11
    assert wire.count_fields(image * 11 + b"\xff" * 1000, 10) == 11  # what follows is not looked at


def test_bytes_of_any_kind_are_counted_or_refused() -> None:
    random = np.random.default_rng(1)
    counted = 0
    for _ in range(10_000):
        body = random.bytes(random.integers(0, 40))
        try:
            assert 0 <= wire.count_fields(body, NO_LIMIT) <= len(body)
            counted += 1
        except ValueError:
            pass
    assert 100 < counted < 9_900


def test_what_protobuf_takes_is_never_more_than_was_counted() -> None:
    """Requests with some bytes changed: most are no requests, the others must be seen as protobuf does."""
    random = np.random.default_rng(2)
    taken = 0
    for _ in range(5_000):
        body = bytearray(random_request(random).SerializeToString())
        for _ in range(random.integers(1, 3) if body else 0):
            body[random.integers(len(body))] = random.integers(256)
        try:
            parsed = classifier_pb2.ClassifyRequest.FromString(bytes(body))
        except DecodeError:
            continue
        assert len(parsed.images) <= wire.count_fields(bytes(body), NO_LIMIT)
        taken += 1
    assert taken > 1_000
