"""An ONNX file as far as its cost depends on it, read off protobuf's wire format without trusting it.

The serving image has no `onnx`, and parsing a file there would take several times its size. Numbers are
skipped, not read: the time depends on the count of fields, the memory on that of nodes and tensors.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from artifact import files
from artifact.errors import UnsafeGraphError

MAX_NODES = 100_000  # ResNet-152 has 500; `import` takes as many
_MAX_FIELDS = 3_000_000  # of the whole file, some 30 a node: two seconds
_MAX_TEXT_BYTES = 4096  # of a name
_MAX_VALUES = 64  # of a tensor or attribute with numbers that matter: shapes, axes, pads
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types; groups have no place in ONNX
_VARINT_BYTES = 10
_STANDARD = ("", "ai.onnx")
_CONTROL_FLOW = frozenset(("If", "Loop", "Scan", "SequenceMap"))
# Bytes of an element, by TensorProto.DataType. Four bits count as a byte; those of no fixed size are refused.
ELEMENT_BYTES = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 21, 22, 23, 24), 1),
    **dict.fromkeys((4, 5, 10, 16), 2),
    **dict.fromkeys((1, 6, 12), 4),
    **dict.fromkeys((7, 11, 13, 14), 8),
    15: 16,
}
_HALF_BYTE = (21, 22, 23)
_NO_ATTRIBUTES = {  # by the number of their field
    **dict.fromkeys((6, 11), "a graph within the graph"),
    **dict.fromkeys((22, 23), "a sparse tensor"),
}
_INT64 = 7


@dataclass(frozen=True)
class Tensor:
    """A constant of the graph.

    Attributes:
        values: of a short one of whole numbers; None where they do not matter.
    """

    name: str
    shape: tuple[int, ...]
    element_bytes: int
    values: tuple[int, ...] | None

    @property
    def size_bytes(self) -> int:
        """Return the memory it takes."""
        return math.prod(self.shape) * self.element_bytes


@dataclass
class Node:
    """An operator, with the attributes that matter here."""

    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Graph:
    """A graph, in the order of the file."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    @property
    def weights_bytes(self) -> int:
        """Return the memory that all constants take."""
        constants = (tensor for node in self.nodes for tensor in node.tensors.values())
        return sum(tensor.size_bytes for tensor in (*self.tensors.values(), *constants))


def read(path: Path) -> Graph:
    """Read a graph.

    Raises:
        UnsafeGraphError: it is no ONNX file, or holds what no artifact may: control flow, functions, graphs
            within the graph, other domains' operators, data in other files or that is not there.
    """
    try:
        with (
            files.open_regular(path) as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _Reader(content).model()
    except UnsafeGraphError as error:
        raise UnsafeGraphError(f"{path.name} {error}") from error
    except OSError as error:
        raise UnsafeGraphError(f"{path.name} cannot be read: {files.reason(error)}") from error
    except ValueError as error:
        raise UnsafeGraphError(f"{path.name} is no ONNX file: {error}") from error


Span = tuple[int, int]
Field = tuple[int, int, int, Span]  # number, wire type, a varint's value, where the content lies


class _Reader:
    """Walks over one file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._fields_left = _MAX_FIELDS

    def model(self) -> Graph:
        graphs = []
        for number, kind, _, span in self._fields((0, len(self._content))):
            if kind == _BYTES and number == 7:
                graphs.append(span)
            elif kind == _BYTES and number == 25:
                raise UnsafeGraphError("holds functions, which no artifact may")
            elif kind == _BYTES and number == 20:
                raise UnsafeGraphError("holds a training graph, which no artifact may")
        if len(graphs) != 1:  # protobuf would merge two
            raise ValueError(f"{len(graphs)} graphs")
        return self._graph(graphs[0])

    def _graph(self, span: Span) -> Graph:
        graph = Graph()
        for number, kind, _, content in self._fields(span):
            if kind != _BYTES:
                continue
            if number == 1:
                graph.nodes.append(self._node(content))
                if len(graph.nodes) > MAX_NODES:
                    raise UnsafeGraphError(f"holds more than {MAX_NODES:,} nodes")
            elif number == 5:
                tensor = self._tensor(content)
                graph.tensors[tensor.name] = tensor
            elif number == 15:
                raise UnsafeGraphError("holds a sparse tensor, which no artifact may")
            elif number in (11, 12):
                (graph.inputs if number == 11 else graph.outputs).append(self._name(content))
        return graph

    def _node(self, span: Span) -> Node:
        node, domain = Node(), ""
        for number, kind, _, content in self._fields(span):
            if kind != _BYTES:
                continue
            if number == 1:
                node.inputs.append(self._text(content))
            elif number == 2:
                node.outputs.append(self._text(content))
            elif number == 4:
                node.operator = self._text(content)
                if node.operator in _CONTROL_FLOW:
                    raise UnsafeGraphError(f"holds control flow ({node.operator}), which no artifact may")
            elif number == 5:
                self._attribute(content, node)
            elif number == 7:
                domain = self._text(content)
        if domain not in _STANDARD:
            raise UnsafeGraphError(f"holds {node.operator!r} of {domain!r}, which no artifact may")
        return node

    def _attribute(self, span: Span, node: Node) -> None:  # noqa: C901 - a branch a field
        name, numbers, text, tensors = "", list[int](), None, list[Tensor]()
        for number, kind, value, content in self._fields(span):
            if number in _NO_ATTRIBUTES:
                raise UnsafeGraphError(f"holds {_NO_ATTRIBUTES[number]}, which no artifact may")
            if number in (3, 8):
                numbers += self._numbers(kind, value, content)
            elif kind != _BYTES:
                continue
            elif number == 1:
                name = self._text(content)
            elif number == 4:
                text = content
            elif number in (5, 10):
                tensors.append(self._tensor(content))
        if len(tensors) > 1:  # protobuf would merge them
            raise UnsafeGraphError("holds an attribute of several tensors, which no artifact may")
        if tensors:
            node.tensors[name] = tensors[0]
        if numbers:
            node.numbers[name] = tuple(numbers)
        if text is not None and text[1] - text[0] <= _MAX_TEXT_BYTES:
            node.texts[name] = self._text(text)

    def _tensor(self, span: Span) -> Tensor:  # noqa: C901 - a branch a field
        name, shape, data_type, raw = "", list[int](), 0, None
        data: list[tuple[int, int, Span]] = []  # of number 7, those that are 64 bits
        data_bytes = 0
        for number, kind, value, content in self._fields(span):
            if number == 13 or (number == 14 and value):
                raise UnsafeGraphError("keeps data in another file, which no artifact may")
            if number == 1:
                shape += self._numbers(kind, value, content)
            elif number == 2:
                data_type = value
            elif number == 8:
                name = self._text(content)
            elif number == 9:
                raw = content
            elif number in (4, 5, 7, 10, 11):
                data_bytes += content[1] - content[0]
                if number == 7 and len(data) <= _MAX_VALUES:
                    data.append((kind, value, content))
        if data_type not in ELEMENT_BYTES or any(side < 0 for side in shape):
            raise UnsafeGraphError(f"holds a constant of data type {data_type} and shape {shape[:8]}")
        tensor = Tensor(name, tuple(shape), ELEMENT_BYTES[data_type], None)
        if not _is_there(tensor, data_bytes, raw, half=data_type in _HALF_BYTE):
            raise UnsafeGraphError(f"declares a constant of {tensor.size_bytes} bytes that is not there")
        if data_type != _INT64 or math.prod(shape) > _MAX_VALUES:
            return tensor
        values = [number for field in data for number in self._numbers(*field)]
        if raw is not None:
            values = list(struct.unpack(f"<{math.prod(shape)}q", self._content[raw[0] : raw[1]]))
        return Tensor(name, tensor.shape, tensor.element_bytes, tuple(values))

    def _numbers(self, kind: int, value: int, content: Span) -> list[int]:
        """Return whole numbers, packed or one alone; of many, some more than matter."""
        if kind == _VARINT:
            return [_signed(value)]
        numbers: list[int] = []
        position, stop = content
        while kind == _BYTES and position < stop and len(numbers) <= _MAX_VALUES:
            packed, position = self._varint(position, stop)
            numbers.append(_signed(packed))
        return numbers

    def _name(self, span: Span) -> str:
        """Return the name of a ValueInfoProto."""
        names = [content for number, kind, _, content in self._fields(span) if (number, kind) == (1, _BYTES)]
        return self._text(names[-1]) if names else ""

    def _text(self, span: Span) -> str:
        if span[1] - span[0] > _MAX_TEXT_BYTES:
            raise UnsafeGraphError(f"holds a name of more than {_MAX_TEXT_BYTES} bytes")
        return self._content[span[0] : span[1]].decode("utf-8")

    def _fields(self, span: Span) -> Iterator[Field]:
        position, stop = span
        while position < stop:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise UnsafeGraphError(f"holds more than {_MAX_FIELDS:,} fields")
            tag, position = self._varint(position, stop)
            kind, value, start = tag & 7, 0, position
            if kind == _VARINT:
                value, position = self._varint(position, stop)
            elif kind == _BYTES:
                length, start = self._varint(position, stop)
                position = start + length
            elif kind in (_FIXED64, _FIXED32):
                position += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {kind}")
            if position > stop:
                raise ValueError("truncated")
            yield tag >> 3, kind, value, (start, position)

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        value = shift = 0
        for at in range(position, min(stop, position + _VARINT_BYTES)):
            byte = self._content[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at + 1
            shift += 7
        raise ValueError("truncated, or a number that is too long")


def _is_there(tensor: Tensor, data_bytes: int, raw: Span | None, *, half: bool) -> bool:
    """Return whether a file holds the numbers that a constant declares."""
    if raw is None:  # a number takes a byte or more, or two of four bits share one
        return math.prod(tensor.shape) <= data_bytes * (1 + half)
    stored_bytes = (tensor.size_bytes + 1) // 2 if half else tensor.size_bytes
    return raw[1] - raw[0] == stored_bytes


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
