"""A look at a message's bytes before they are parsed."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def count_fields(body: bytes, limit: int) -> int:
    """Count the fields at the top level of a protobuf message, ``limit`` + 1 at the most.

    Raises:
        ValueError: the bytes are no message, as far as they were looked at.
    """
    position = fields = 0
    while position < len(body) and fields <= limit:
        fields += 1
        tag, position = _varint(body, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(body, position)
        elif kind == _BYTES:
            length, position = _varint(body, position)
            position += length
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"wire type {kind}")
    if position > len(body):
        raise ValueError("truncated")
    return fields


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for byte in body[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("bad varint")
