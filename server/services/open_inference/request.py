"""From the bytes of a ModelInferRequest to a request that shares the bytes of its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from modelzoo.v1 import open_inference_pb2
from server.errors import InvalidRequestError
from server.rpc import wire

_RAW = 7  # raw_input_contents
_RAW_TAG = _RAW << 3 | wire.BYTES
_HEAD_TAGS = frozenset(number << 3 | wire.BYTES for number in range(1, _RAW))  # a byte each, like the raw one
# Model, version, id; the inputs with their shapes, and their contents where numbers grow manifold; outputs.
INSIDE_INFER_REQUEST: wire.Inside = {
    **dict.fromkeys((1, 2, 3), wire.TEXT),
    5: {1: wire.TEXT, 2: wire.TEXT, 3: None, 5: {2: None, 3: None, 5: None}},
    6: {1: wire.TEXT},
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
        if len(head) > left and wire.count_fields(head, left, INSIDE_INFER_REQUEST) > left:
            raise InvalidRequestError("request", f"more than {max_fields} fields")
        message = open_inference_pb2.ModelInferRequest.FromString(head)
    except (DecodeError, ValueError) as error:
        raise InvalidRequestError("request", "not an inference.ModelInferRequest") from error
    if message.raw_input_contents:  # they were not where they usually are
        raw = [memoryview(content) for content in message.raw_input_contents]
        message.ClearField("raw_input_contents")
    return InferRequest(message, raw)


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
            length, start = wire.read_varint(body, position + 1, _LENGTH_BYTES)
        except ValueError:
            return body, []
        position = start + length
        if tag == _RAW_TAG:
            raw.append(view[start:position])
        else:
            head_end = position
    return (body, []) if position > len(body) else (body[:head_end], raw)
