"""A look at a message's bytes before they are parsed."""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def count_fields(body: bytes, limit: int, inside: int | None = None) -> int:
    """Count the fields at the top level of a protobuf message, ``limit`` + 1 at the most.

    Args:
        inside: number of a field that holds a message, whose own fields are counted too.

    Raises:
        ValueError: the bytes are no message, as far as they were looked at.
    """
    count = 0
    messages = [(0, len(body))]
    for start, stop in messages:  # grows on the way
        for number, content in _fields(body, start, stop):
            count += 1
            if count > limit:
                return count
            if start == 0 and number == inside and content is not None:
                messages.append(content)
    return count


def _fields(body: bytes, position: int, stop: int) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Give the number of every field, and where its content lies if that has a length of its own.

    Raises:
        ValueError: the bytes are no message.
    """
    while position < stop:
        content = None
        tag, position = _varint(body, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(body, position)
        elif kind == _BYTES:
            length, start = _varint(body, position)
            position = start + length
            content = (start, position)
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if position > stop:
            raise ValueError("truncated")
        yield tag >> 3, content


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for byte in body[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("bad varint")
