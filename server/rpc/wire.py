"""Protobuf's wire format: read to see what parsing would cost before that is done, and written in parts."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from server.errors import InvalidRequestError

_VARINT, _FIXED64, BYTES, _GROUP, _END_GROUP, FIXED32 = range(6)  # protobuf's wire types
_FIXED_BYTES = {_FIXED64: 8, FIXED32: 4}

# Fields that hold a message (its own fields count too); or, for None, numbers, each perhaps a byte; or text
# of up to so many bytes, which is decoded and hashed whole (1.4 ms a megabyte).
Inside: TypeAlias = Mapping[int, "Inside | int | None"]
NOTHING: Inside = {}
_SMALL = [bytes([value]) for value in range(0x80)]
TEXT = 1 << 16  # far above any name; longer ones of some kilobytes are answered with what they are not


def count_fields(body: bytes, limit: int, inside: Inside = NOTHING) -> int:
    """Count the fields of a protobuf message, ``limit`` + 1 at the most.

    Messages are walked breadth first, without recursion. What counts for a field with a content of its own is
    what ``inside`` has under its number: another such table (a message: its fields count, too), a number (a
    text of at most so many bytes), None (packed numbers: every byte may be one), or nothing (the field
    alone).

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
    """Return the number of every field, and where its content lies if that has a length of its own.

    Raises:
        ValueError: the bytes are no message.
    """
    open_groups = 0  # obsolete; what is in one is none of the message's fields
    while position < stop:
        content = None
        tag = body[position]
        if tag < 0x80:  # as that of nearly every field
            position += 1
        else:
            tag, position = read_varint(body, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = read_varint(body, position)
        elif kind == BYTES:
            length = body[position] if position < stop else 0x80
            start = position + 1
            if length >= 0x80:
                length, start = read_varint(body, position)
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


def read_varint(body: bytes, position: int, longest: int = 10) -> tuple[int, int]:
    """Read a varint of so many bytes at the most; return it, and where it ends.

    Raises:
        ValueError: it is longer, or cut off.
    """
    value = shift = 0
    for byte in body[position : position + longest]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("bad varint")


def tag(field: int, kind: int) -> bytes:
    """Write what stands before a field of a kind, `BYTES` say."""
    return _varint(field << 3 | kind)


def with_length(content: bytes) -> bytes:
    """Write what stands behind the tag of a field of `BYTES`."""
    return _varint(len(content)) + content


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
