"""A client of HTTP/2 that may break every rule: frames as bytes on a plain socket.

A library would refuse to send most of what an attack consists of. Header fields are literals without
Huffman coding (RFC 7541, section 6.2.2), so that any bytes can stand in them.
"""

import socket
import struct
import threading
from collections.abc import Sequence
from typing import TypeAlias

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5  # settings
_LARGEST_WINDOW = (1 << 31) - 1
_DEFAULT_WINDOW, _DEFAULT_FRAME = 65_535, 16_384
_TURN_BYTES = 1 << 20  # that are sent before the windows are looked at again
_PATIENCE_S = 10.0  # for the server to read on, or to answer

Field: TypeAlias = tuple[bytes, bytes]


class ConnectionClosedError(OSError):
    """The server closed the connection, or does not go on."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Build a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(fields: Sequence[Field]) -> bytes:
    """Encode header fields, each a literal without indexing."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def grpc_fields(path: bytes, *more: Field) -> list[Field]:
    """Build the header fields of a gRPC call; further ones follow them."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]


def grpc_message(content: bytes, *, compressed: bool = False) -> bytes:
    """Put gRPC's prefix before a message: whether it is compressed, and its length."""
    return struct.pack(">BI", compressed, len(content)) + content


class Connection:
    """A connection; a thread answers its window updates, settings and pings.

    Args:
        address: ``host:port``.
        reads: whether anything is read at all; without, no flow control is kept either.
        window_bytes: that the server may send on a stream before it is given more.
    """

    def __init__(self, address: str, *, reads: bool = True, window_bytes: int = _LARGEST_WINDOW) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=_PATIENCE_S)
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._window_bytes, self._windows = _DEFAULT_WINDOW, dict[int, int]()
        self._initial_bytes, self._frame_bytes = _DEFAULT_WINDOW, _DEFAULT_FRAME
        self._last_stream = -1
        self._returns_window = window_bytes > 0
        self.ended: set[int] = set()
        self.closed = False
        self.send(
            PREFACE,
            frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window_bytes)),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW)),
        )
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def send(self, *frames: bytes) -> None:
        """Send bytes as they are.

        Raises:
            OSError: the server closed the connection, or reads no more.
        """
        with self._sending:
            self._socket.sendall(b"".join(frames))

    def open(self, path: bytes, *more: Field, end: bool = False) -> int:
        """Begin a call; gives its stream."""
        return self.open_with(header_block(grpc_fields(path, *more)), end=end)

    def open_with(self, block: bytes, *, end: bool = False) -> int:
        """Begin a call with an encoded header block; gives its stream."""
        with self._changed:
            self._last_stream += 2
            stream = self._last_stream
            self._windows[stream] = self._initial_bytes
            self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))
        return stream

    def write(self, stream: int, content: bytes, *, end: bool = True) -> None:
        """Send the bytes of a call as far as the server's windows allow, then wait for them to open.

        Raises:
            OSError: they do not open in time, or the connection is closed.
        """
        view, position = memoryview(content), 0
        frames: list[bytes] = []
        while position < len(view):
            with self._changed:
                if not self._changed.wait_for(lambda: self._open_bytes(stream) or self.closed, _PATIENCE_S):
                    raise ConnectionClosedError("the window stays shut")
                if self.closed or stream in self.ended:
                    raise ConnectionClosedError("the call is over")
                count = min(self._open_bytes(stream), _TURN_BYTES, len(view) - position)
                self._windows[stream] -= count
                self._window_bytes -= count
            stop = position + count
            for start in range(position, stop, self._frame_bytes):
                part = view[start : min(start + self._frame_bytes, stop)]
                last = end and start + len(part) == len(view)
                frames.append(frame(DATA, END_STREAM if last else 0, stream, bytes(part)))
            self.send(*frames)
            frames.clear()
            position = stop

    def wait(self, *streams: int, timeout_s: float = _PATIENCE_S) -> bool:
        """Wait until calls are over, or the connection; False when they are not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closed or self.ended.issuperset(streams), timeout_s)

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()

    def _open_bytes(self, stream: int) -> int:
        if stream in self.ended:
            return 1  # let the writer see it
        return max(0, min(self._window_bytes, self._windows[stream]))

    def _read(self) -> None:
        left = b""
        try:
            self._socket.settimeout(None)
            while received := self._socket.recv(1 << 18):
                left += received
                while len(left) >= 9 and len(left) >= 9 + (length := int.from_bytes(left[:3], "big")):
                    kind, flags, stream = struct.unpack(">BBI", left[3:9])
                    payload, left = left[9 : 9 + length], left[9 + length :]
                    self._handle(kind, flags, stream, payload)
        except (OSError, struct.error):
            pass
        finally:
            with self._changed:
                self.closed = True
                self._changed.notify_all()

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        answer = b""
        with self._changed:
            if kind == WINDOW_UPDATE:
                [more] = struct.unpack(">I", payload)
                if stream == 0:
                    self._window_bytes += more
                elif stream in self._windows:
                    self._windows[stream] += more
            elif kind == SETTINGS and not flags & ACK:
                self._set(payload)
                answer = frame(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                answer = frame(PING, ACK, 0, payload)
            elif kind == DATA and payload and self._returns_window:
                more_bytes = struct.pack(">I", len(payload))
                answer = frame(WINDOW_UPDATE, 0, 0, more_bytes) + frame(WINDOW_UPDATE, 0, stream, more_bytes)
            if kind == RST_STREAM or (kind in {DATA, HEADERS} and flags & END_STREAM):
                self.ended.add(stream)
            self._changed.notify_all()
        if answer:
            self.send(answer)

    def _set(self, payload: bytes) -> None:
        for setting, value in struct.iter_unpack(">HI", payload):
            if setting == _INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial_bytes
                self._initial_bytes = value
            elif setting == _MAX_FRAME_SIZE:
                self._frame_bytes = min(value, 1 << 18)


def _string(value: bytes) -> bytes:
    """Encode a string literal of HPACK (RFC 7541, section 5.2)."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    length, encoded = len(value) - 127, [127]
    while length >= 128:
        encoded.append(length % 128 | 128)
        length //= 128
    return bytes([*encoded, length]) + value
