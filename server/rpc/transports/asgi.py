"""A call of gRPC that came over ASGI: framing, deadline and status, behind a server that speaks HTTP/2.

What it needs beyond ASGI: trailers, and that the task of a request is cancelled when its client resets the
stream or goes away. Source of the wire format: grpc.github.io/grpc, PROTOCOL-HTTP2.md.
"""

import asyncio
import base64
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias
from urllib.parse import quote

from google.rpc import status_pb2

from server.errors import MessageTooLargeError, ModelZooError, UnsupportedError
from server.rpc import statuses
from server.rpc.context import Headers, Method, PeerGoneError

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

_PREFIX_BYTES = 5  # of a message: whether it is compressed, and its length
_COPIED_BYTES = 1 << 16  # messages up to this are copied behind their prefix; larger ones follow it
_UNCOUNTED_BYTES = 1 << 10  # an answer up to this is less than what its stream takes; see `AsgiContext._sent`
_INLINE_BYTES = 1 << 14  # compressed messages up to this are inflated on the event loop
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Clients reset calls at their deadlines, and h2corn closes connections of many resets: be first.
_EARLY_S, _EARLY_RATIO = 0.02, 0.1
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # zlib's, of the formats that gRPC names so
# Headers that belong to HTTP and to gRPC itself; all others are the client's metadata.
_OWN_HEADERS = {b"host", b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # stands as it is in a grpc-message
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_CUT_OFF = "the call ended within a message"
_SUBTYPES = (b"application/grpc+", b"application/grpc;")
NO_MORE = {"type": "http.response.body"}
_TRAILERS_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_DEADLINE = status_pb2.Status(code=4, message="Deadline Exceeded")  # gRPC's own number and words


class Framing:
    """How messages and answers are framed.

    Args:
        max_message_bytes: of one message, inflated where it came compressed.
        accept_compressed: whether it may.

    Attributes:
        encodings: that messages may have beside identity, and the window bits that zlib takes for each.
        head_fields: headers that every answer begins with.
        head: the event that begins one.
    """

    def __init__(self, max_message_bytes: int, *, accept_compressed: bool) -> None:
        self.max_message_bytes = max_message_bytes
        self.encodings = dict(_WINDOW_BITS) if accept_compressed else {}
        accepted = b",".join((b"identity", *self.encodings))
        self.head_fields = [_CONTENT_TYPE, (b"grpc-accept-encoding", accepted)]
        self.head = _start(self.head_fields, trailers=True)


class AsgiContext:
    """A call that came over ASGI; see `server.rpc.context.Context`.

    Attributes:
        is_grpc: whether it is one of gRPC, not of gRPC-Web or of something else.
    """

    def __init__(self, framing: Framing, scope: Any, receive: Receive, send: Send) -> None:
        self._framing, self._scope, self._receive, self._send = framing, scope, receive, send
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._chunk, self._at, self._more = b"", 0, True  # what came last, as far as it is read
        self._began = False  # to answer
        self._encoding = b"identity"
        self._ends_s: float | None = None
        self._last_word: status_pb2.Status | None = None  # to a call that we cancel
        self._when_ended: list[Callable[[], None]] = []
        self.is_grpc = False
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.is_grpc = value == b"application/grpc" or value.startswith(_SUBTYPES)
            elif name == b"grpc-timeout":
                timeout_s = _early(value)
                self._ends_s = None if timeout_s is None else self._loop.time() + timeout_s
            elif name == b"grpc-encoding":
                self._encoding = value

    def peer(self) -> str:
        """Return the other end."""
        host, port = self._scope["client"]
        return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def headers(self) -> Headers:
        """Return the client's metadata."""
        fields = [field for field in self._scope["headers"] if field[0] not in _OWN_HEADERS]
        return [pair for field in fields for pair in _pairs(*field)]

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline, or a little less."""
        return None if self._ends_s is None else max(0.0, self._ends_s - self._loop.time())

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have a callback called when the call has ended."""
        self._when_ended.append(callback)

    def ended(self) -> None:
        """Call back."""
        for callback in self._when_ended:
            callback()

    def cancel(self, status: status_pb2.Status | None) -> None:
        """Cancel the call, and end it with a status all the same, if there is one."""
        self._last_word = status
        if self._task is not None:
            self._task.cancel()

    async def serve(self, method: Method) -> None:
        """Answer the call, and end it with a status."""
        timer = None if self._ends_s is None else self._loop.call_at(self._ends_s, self.cancel, _DEADLINE)
        answered: bytes | status_pb2.Status
        try:
            answer = await method.answer(self)
            answered = answer if isinstance(answer, bytes) else statuses.describe(answer)
        except asyncio.CancelledError:
            if self._last_word is None:  # the client is gone
                raise
            answered = self._last_word
        finally:
            if timer is not None:
                timer.cancel()
        with suppress(OSError):  # the client is gone
            if isinstance(answered, bytes):
                await self._begin()
                if method.answers_once:
                    await self._send_framed([answered], more=False)
                else:
                    await self._send(NO_MORE)
                await self._send(_TRAILERS_OK)
                if len(answered) > _UNCOUNTED_BYTES:
                    await self._sent()
            else:
                await self._end(answered)

    async def read(self) -> bytes | None:
        """Wait for the next message.

        Raises:
            MessageTooLargeError: it says that it is larger than it may be.
            UnsupportedError: it is compressed.
            ModelZooError: it ends before its length, or is not what it is said to be.
            PeerGoneError: the client is gone.
        """
        while len(self._chunk) < self._at + _PREFIX_BYTES:
            rest = self._chunk[self._at :]
            if not self._more:
                if rest:
                    raise ModelZooError(_CUT_OFF)
                return None
            chunk = await self._next()
            self._chunk, self._at = rest + chunk if rest else chunk, 0
        chunk, start = self._chunk, self._at + _PREFIX_BYTES
        size = int.from_bytes(chunk[start - 4 : start], "big")
        if size > self._framing.max_message_bytes:
            self._too_large(size)
        compressed, self._at = chunk[start - 5], start + size
        body = chunk[start : self._at] if self._at <= len(chunk) else await self._gather(chunk[start:], size)
        return await self._inflated(compressed, body) if compressed else body

    async def write(self, bodies: Sequence[bytes]) -> None:
        """Send messages: small ones at once.

        Raises:
            PeerGoneError: the client is gone.
        """
        try:
            await self._begin()
            await self._send_framed(bodies, more=True)
        except OSError as error:
            raise PeerGoneError from error

    async def _sent(self) -> None:
        """Wait until the answer is sent: until then it is memory that the call holds."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _begin(self) -> None:
        if not self._began:
            self._began = True
            await self._send(self._framing.head)

    async def _send_framed(self, bodies: Sequence[bytes], *, more: bool) -> None:
        parts: list[bytes] = []
        for body in bodies:
            parts.append(b"\0" + len(body).to_bytes(4, "big"))
            if len(body) > _COPIED_BYTES:
                await self._send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
                parts.clear()
            parts.append(body)
        last = parts[0] if len(parts) == 1 else b"".join(parts)
        await self._send({"type": "http.response.body", "body": last, "more_body": more})

    async def _end(self, status: status_pb2.Status) -> None:
        """Send a status, in trailers alone where nothing was answered."""
        fields = [
            (b"grpc-status", b"%d" % status.code),
            (b"grpc-message", quote(status.message, _PLAIN).encode()),
        ]
        if status.details:
            details = base64.b64encode(status.SerializeToString()).rstrip(b"=")
            fields.append((b"grpc-status-details-bin", details))
        if self._began:
            await self._send(NO_MORE)
            await self._send({"type": "http.response.trailers", "headers": fields})
        else:
            await self._send(_start(self._framing.head_fields + fields, trailers=False))
            await self._send(NO_MORE)

    async def _next(self) -> bytes:
        """Wait for what comes next; it may be nothing, at the end."""
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise PeerGoneError
        self._more = event.get("more_body", False)
        body: bytes = event.get("body", b"")
        return body

    async def _gather(self, start: bytes, size: int) -> bytes:
        """Wait for the rest of a message of which the start has come."""
        parts: list[bytes | memoryview] = [start]
        missing = size - len(start)
        while missing > 0:
            if not self._more:
                raise ModelZooError(_CUT_OFF)
            self._chunk = await self._next()
            parts.append(memoryview(self._chunk)[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    async def _inflated(self, flag: int, body: bytes) -> bytes:
        encoding, limit = self._encoding, self._framing.max_message_bytes
        if flag != 1 or encoding == b"identity":
            raise ModelZooError("a message is compressed, and no grpc-encoding says how")
        if encoding not in self._framing.encodings:
            raise UnsupportedError(f"compression {encoding.decode('latin-1')} is not accepted")
        inflater = zlib.decompressobj(self._framing.encodings[encoding])
        try:
            if len(body) > _INLINE_BYTES:
                plain = await asyncio.to_thread(inflater.decompress, body, limit + 1)
            else:
                plain = inflater.decompress(body, limit + 1)
        except zlib.error as error:
            raise ModelZooError(f"a message is not {encoding.decode()}") from error
        if len(plain) > limit:
            self._too_large(len(plain))
        if not inflater.eof:
            raise ModelZooError(f"a message is not all of its {encoding.decode()}")
        return plain

    def _too_large(self, size: int) -> NoReturn:
        limit = self._framing.max_message_bytes  # in gRPC's own words:
        raise MessageTooLargeError(f"Received message larger than max ({size} vs. {limit})")


def _start(fields: list[tuple[bytes, bytes]], *, trailers: bool) -> dict[str, object]:
    return {"type": "http.response.start", "status": 200, "headers": fields, "trailers": trailers}


def _early(timeout: bytes) -> float | None:
    """Return the seconds after which a call has to be answered, a little less than its client says."""
    count, unit_s = timeout[:-1], _UNITS_S.get(timeout[-1:])
    if unit_s is None or not count.isdigit() or len(count) > 8:
        return None  # as gRPC takes what it cannot read
    timeout_s = int(count) * unit_s
    return timeout_s - min(_EARLY_S, timeout_s * _EARLY_RATIO)


def _pairs(name: bytes, value: bytes) -> Iterator[tuple[str, str | bytes]]:
    """Decode a header; what is not base64 where it should be is dropped."""
    text = name.decode("latin-1")
    if not name.endswith(b"-bin"):
        yield text, value.decode("latin-1")
        return
    for part in value.split(b","):
        bare = part.strip(b" =")  # padded or not
        with suppress(ValueError):
            yield text, base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
