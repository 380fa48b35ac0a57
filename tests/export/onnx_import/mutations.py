"""Small changes to ONNX files, of bytes and of fields, as damage, bugs of exporters or malice make them."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_INTEGERS = (
    -(1 << 63),
    -(1 << 31),
    -2,
    -1,
    0,
    1,
    2,
    3,
    5,
    7,
    8,
    10,
    255,
    1 << 16,
    (1 << 31) - 1,
    (1 << 63) - 1,
)
_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-40, 1e38)
_OPERATORS = (
    "Add", "ArgMax", "Cast", "Concat", "Constant", "ConstantOfShape", "Conv", "Expand", "Flatten", "Gather",
    "Gemm", "Identity", "If", "Loop", "MatMul", "Range", "Relu", "Reshape", "Resize", "Shape", "Sigmoid",
    "Slice", "Softmax", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
_TEXTS = ("", "x", "y", "ai.onnx", "com.microsoft", "\0", "\n\x1b[2J", "é" * 300, "../x", "axis", "value")


def of_bytes(content: bytes, random_: random.Random) -> bytes:
    """Change some bytes: another value, left out, put in, twice, or cut off."""
    changed = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8))):
        start = random_.randrange(len(changed) or 1)
        end = start + random_.choice((1, 1, 4, 64))
        part = changed[start:end]
        kind = random_.randrange(6)
        if kind == 0:
            changed[start:end] = random_.randbytes(len(part))
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = random_.randbytes(random_.choice((1, 4)))
        elif kind == 3:
            changed[start:start] = part
        elif kind == 4 and changed:
            changed[start] ^= 1 << random_.randrange(8)
        elif random_.random() < 0.1:
            del changed[start:]
    return bytes(changed)


def of_fields(content: bytes, random_: random.Random) -> bytes:
    """Change some fields of the model: another value, left out, twice, in another place."""
    model = onnx.load_from_string(content)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        # Fields by their kind first: else nearly all changes were of the numbers in tensors.
        places: dict[str, list[Callable[[], None]]] = {}
        for name, change in _changes(model, random_):
            places.setdefault(name, []).append(change)
        if places:  # there is something left of it
            random_.choice(places[random_.choice(sorted(places))])()
    return model.SerializeToString()


def _changes(message: Message, random_: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what can be changed in a message and those within, with the name of the field."""
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        yield name, lambda field=field: message.ClearField(field.name)
        if field.is_repeated:
            yield name, lambda value=value: _in_list(value, random_)
            items = list(value)[:20]
        else:
            items = [value]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in items:
                yield from _changes(item, random_)
        elif not field.is_repeated:
            yield name, lambda field=field: setattr(message, field.name, _value(field, random_))
        elif value:
            yield name, lambda field=field, value=value: _assign(value, field, random_)


def _assign(values: Any, field: FieldDescriptor, random_: random.Random) -> None:
    if values:
        values[random_.randrange(len(values))] = _value(field, random_)


def _in_list(values: Any, random_: random.Random) -> None:
    """Leave an item out, repeat it, or change the order."""
    items = list(values)
    if not items:
        return
    kind = random_.randrange(3)
    if kind == 0:
        del items[random_.randrange(len(items))]
    elif kind == 1:
        items.insert(random_.randrange(len(items) + 1), random_.choice(items))
    else:
        random_.shuffle(items)
    copies = [
        type(item).FromString(item.SerializeToString()) if isinstance(item, Message) else item
        for item in items
    ]
    del values[:]
    values.extend(copies)


def _value(field: FieldDescriptor, random_: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return random_.choice(_OPERATORS if field.name == "op_type" else _TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random_.randbytes(random_.choice((0, 1, 8, 100)))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random_.choice(_FLOATS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return random_.choice([value.number for value in field.enum_type.values])
    limit = 1 << (63 if field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64) else 31)
    return max(-limit, min(limit - 1, random_.choice(_INTEGERS)))
