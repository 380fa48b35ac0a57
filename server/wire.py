"""From a message's bytes to a request, after a look at what parsing them would cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from modelzoo.v1 import open_inference_pb2
from server.errors import InvalidRequestError

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)  # protobuf's wire types
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

# Fields that hold a message (its own fields count too); or, for None, numbers, each perhaps a byte; or text
# of up to so many bytes, which is decoded and hashed whole (1.4 ms a megabyte).
Inside: TypeAlias = Mapping[int, "Inside | int | None"]
NOTHING: Inside = {}
TEXT = 1 << 16  # far above any name; longer ones of some kilobytes are answered with what they are not

_RAW = 7  # raw_input_contents
_RAW_TAG = _RAW << 3 | _BYTES
_HEAD_TAGS = frozenset(number << 3 | _BYTES for number in range(1, _RAW))  # a byte each, like the raw one
# Model, version, id; the inputs with their shapes, and their contents where numbers grow manifold; outputs.
INSIDE_INFER_REQUEST: Inside = {
    **dict.fromkeys((1, 2, 3), TEXT),
    5: {1: TEXT, 2: TEXT, 3: None, 5: {2: None, 3: None, 5: None}},
    6: {1: TEXT},
}
_LENGTH_BYTES = 5  # of the varint of a length, at the most


@dataclass(frozen=True)
class InferRequest:
    """A ModelInferRequest with its raw contents aside.

    Attributes:
        message: without raw contents.
        raw: the raw contents, not copied: views of the bytes that came.
    """

    message: open_inference_pb2.ModelInferRequest
    raw: Sequence[memoryview]


def read_infer_request(body: bytes, max_fields: int) -> InferRequest:
    """Read a ModelInferRequest as protobuf's parser does, but leave its raw contents where they are.

    Args:
        max_fields: that it may have, those of its inputs and outputs included; they are counted before
            anything is parsed, because two bytes a field grow a hundredfold there.

    Raises:
        InvalidRequestError: it has more, or is none.
    """
    head, raw = _cut(body, max_fields)
    left = max_fields - len(raw)
    try:
        if len(head) > left and count_fields(head, left, INSIDE_INFER_REQUEST) > left:
            raise InvalidRequestError("request", f"more than {max_fields} fields")
        message = open_inference_pb2.ModelInferRequest.FromString(head)
    except (DecodeError, ValueError) as error:
        raise InvalidRequestError("request", "not an inference.ModelInferRequest") from error
    if message.raw_input_contents:  # they were not where they usually are
        raw = [memoryview(content) for content in message.raw_input_contents]
        message.ClearField("raw_input_contents")
    return InferRequest(message, raw)


def count_fields(body: bytes, limit: int, inside: Inside = NOTHING) -> int:
    """Count the fields of a protobuf message, ``limit`` + 1 at the most.

    Raises:
        InvalidRequestError: a text is longer than it may be.
        ValueError: the bytes are no message, as far as they were looked at.
    """
    count = 0
    messages = [(0, len(body), inside)]
    for start, stop, within in messages:  # grows on the way
        for number, content in _fields(body, start, stop):
            count += 1
            if content is not None and number in within:
                deeper, size = within[number], content[1] - content[0]
                if deeper is None:
                    count += size
                elif isinstance(deeper, int):
                    if size > deeper:
                        raise InvalidRequestError(
                            "request", f"a text of {size:,} bytes, not up to {deeper:,}"
                        )
                else:
                    messages.append((*content, deeper))
            if count > limit:
                return limit + 1
    return count


def _fields(body: bytes, position: int, stop: int) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Give the number of every field, and where its content lies if that has a length of its own.

    Raises:
        ValueError: the bytes are no message.
    """
    open_groups = 0  # nobody uses them any more; what is in one is none of the message's fields
    while position < stop:
        content = None
        tag, position = _varint(body, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(body, position)
        elif kind == _BYTES:
            length, start = _varint(body, position)
            position = start + length
            content = None if open_groups else (start, position)
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        elif kind in {_GROUP, _END_GROUP}:
            open_groups += 1 if kind == _GROUP else -1
        else:
            raise ValueError(f"wire type {kind}")
        if position > stop:
            raise ValueError("truncated")
        yield tag >> 3, content


def _cut(body: bytes, max_fields: int) -> tuple[bytes, list[memoryview]]:
    """Cut the raw contents off the end of a ModelInferRequest, where every serializer writes them.

    Args:
        max_fields: after which it gives up: a message of two-byte fields would otherwise keep the event loop
            for seconds.

    Returns:
        What is left to be parsed, and the raw contents; the whole body and none, where anything is unusual.
    """
    view = memoryview(body)
    raw: list[memoryview] = []
    position = head_end = count = 0
    while position < len(body):
        tag = body[position]
        count += 1
        if count > max_fields or (tag != _RAW_TAG and (raw or tag not in _HEAD_TAGS)):
            return body, []  # where they are counted, and refused if they are too many
        try:
            length, start = _varint(body, position + 1, _LENGTH_BYTES)
        except ValueError:
            return body, []
        position = start + length
        if tag == _RAW_TAG:
            raw.append(view[start:position])
        else:
            head_end = position
    return (body, []) if position > len(body) else (body[:head_end], raw)


def _varint(body: bytes, position: int, longest: int = 10) -> tuple[int, int]:
    value = shift = 0
    for byte in body[position : position + longest]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("bad varint")
