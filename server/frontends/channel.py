"""One end of the connection between the engine and a front end: frames, each of everything since the last.

What is to be sent gathers in `pending` and is written once the event loop has done what it had in hand, so
that many small messages are one write here and one wake-up there.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Generic, Self, TypeVar, cast

from google.protobuf.message import Message

Outgoing = TypeVar("Outgoing", bound=Message)
Incoming = TypeVar("Incoming", bound=Message)

_LENGTH_BYTES = 4  # in front of every frame


class Channel(asyncio.Protocol, Generic[Outgoing, Incoming]):
    """An end of a connection.

    Args:
        outgoing: type of the frames that are written.
        incoming: type of those that are read.
        on_frame: called with each.
        failed: called with what went wrong with one, a frame that is none say; the connection has ended then,
            because whatever came after it cannot be understood.

    Attributes:
        ended: set when the other end is gone, or this one was closed and all was written.
    """

    def __init__(
        self,
        outgoing: type[Outgoing],
        incoming: type[Incoming],
        on_frame: Callable[[Incoming], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._on_frame = on_frame
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unsent: Outgoing | None = None
        self._unread = bytearray()
        self.ended = asyncio.Event()

    async def connect(self, end: socket.socket) -> Self:
        """Take an end of a socket pair; it is closed with this."""
        await self._loop.create_unix_connection(lambda: self, sock=end)
        return self

    @property
    def pending(self) -> Outgoing:
        """Return the next frame, to be added to at once; it is written soon."""
        if self._unsent is None:
            self._unsent = self._outgoing()
            self._loop.call_soon(self._flush)
        return self._unsent

    def beat(self) -> None:
        """Send an empty frame as a sign of life, unless the other end has yet to read earlier ones."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            _ = self.pending

    def close(self) -> None:
        """Write what is pending, and then end."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
        self.ended.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the event loop calls it."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; the event loop calls it."""
        del exc  # whatever it was, the other end is gone
        self._transport = None
        self.ended.set()

    def data_received(self, data: bytes) -> None:
        """Take frames out of what came; the event loop calls it."""
        try:
            self._read(data)
        except Exception as error:  # noqa: BLE001 - the event loop would only print it
            self._unread.clear()
            self.abort()
            self._failed(error)

    def _read(self, data: bytes) -> None:
        unread = self._unread
        unread += data
        start = 0
        while len(unread) - start >= _LENGTH_BYTES:
            begin = start + _LENGTH_BYTES
            stop = begin + int.from_bytes(unread[start:begin], "little")
            if stop > len(unread):
                break
            frame = self._incoming.FromString(bytes(unread[begin:stop]))
            start = stop
            self._on_frame(frame)
        if start:
            del unread[:start]

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and self._transport is not None:
            body = unsent.SerializeToString()
            self._transport.write(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
