"""A peer that speaks HTTP/2 by hand, so that it can do what no gRPC client does."""

import socket
import struct
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

Header = tuple[bytes, bytes]
_LIMIT_S = 60.0  # for a server that does nothing


def prefixed(message: bytes, *, compressed: bool = False) -> bytes:
    """Put gRPC's prefix in front of a message."""
    return struct.pack(">BI", compressed, len(message)) + message


class RawPeer:
    """One connection.

    Args:
        window: bytes that the server may send on a stream, and no more; None to read everything.

    Attributes:
        headers: of every stream, those at its end included.
        data: that came on every stream.
        ended: streams that are over, each with the event that ended it.
        closed: whether the server has closed the connection.
    """

    def __init__(self, address: str, window: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self._http.initiate_connection()
        self._reads = window is None
        self._acknowledged = False
        if window is not None:
            self._http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.headers: dict[int, list[Header]] = {}
        self.data: dict[int, bytes] = {}
        self.ended: dict[int, h2.events.Event] = {}
        self.closed = False
        self.flush()
        while window is not None and not self._acknowledged:
            self.receive(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(
        self,
        path: bytes,
        headers: Iterable[Header] = (),
        *,
        content_type: bytes = b"application/grpc",
        half_closed: bool = False,
    ) -> int:
        """Begin a call; return the number of its stream."""
        stream = self._http.get_next_available_stream_id()
        usual = (
            *((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"test")),
            *((b"content-type", content_type), (b"te", b"trailers")),
        )
        self._http.send_headers(stream, [*usual, *headers], end_stream=half_closed)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, half_closed: bool = False) -> int:
        """Send as much data as the server takes; return how much that was."""
        sent, ends_s = 0, time.monotonic() + _LIMIT_S
        while sent < len(data) and not self.closed and stream not in self.ended:
            assert time.monotonic() < ends_s, "the server takes no more, and does nothing"
            size = min(self._http.local_flow_control_window(stream), 16_384, len(data) - sent)
            if size > 0:
                self._http.send_data(stream, data[sent : sent + size])
                sent += size
                self.flush()
            else:
                self.receive(0.05)
        if half_closed and not self.closed and stream not in self.ended:
            self._http.end_stream(stream)
            self.flush()
        return sent

    def ping(self, number: int) -> None:
        """Ask for a sign of life."""
        self._http.ping(number.to_bytes(8, "big"))
        self.flush()

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self._http.reset_stream(stream)
        self.flush()

    def receive(self, timeout_s: float) -> None:
        """Take what has come, or comes within a time."""
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError:  # frames after its own GOAWAY, as gRPC sends them
            self.closed = True
            return
        for event in events:
            self._take(event)
        self.flush()

    def end_of(self, stream: int) -> dict[bytes, bytes]:
        """Wait until a stream is over; return all headers that it had."""
        ends_s = time.monotonic() + _LIMIT_S
        while stream not in self.ended and not self.closed:
            assert time.monotonic() < ends_s, "the call does not end"
            self.receive(0.05)
        return dict(self.headers.get(stream, ()))

    def first_ended(self) -> set[int]:
        """Wait until a stream is over; return all that are."""
        ends_s = time.monotonic() + _LIMIT_S
        while not self.ended and not self.closed:
            assert time.monotonic() < ends_s, "no call ends"
            self.receive(0.05)
        return set(self.ended)

    def wait_closed(self) -> None:
        """Wait until the server closes the connection."""
        ends_s = time.monotonic() + _LIMIT_S
        while not self.closed:
            assert time.monotonic() < ends_s, "the connection is not closed"
            self.receive(0.05)

    def flush(self) -> None:
        """Send what is to be sent."""
        try:
            self._socket.settimeout(_LIMIT_S)
            self._socket.sendall(self._http.data_to_send())
        except OSError:
            self.closed = True

    def _take(self, event: h2.events.Event) -> None:
        self._acknowledged |= isinstance(event, h2.events.SettingsAcknowledged)
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            self.headers.setdefault(event.stream_id, []).extend(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            if self._reads:
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self.ended.setdefault(event.stream_id, event)
