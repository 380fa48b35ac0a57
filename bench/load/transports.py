"""The ways of a request to a server and back: a call of its own, or a call that stays open."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

import grpc

from bench.load.load import Load
from bench.load.protocols import Answer, WireProtocol
from client.channels import open_aio_channel

Result = TypeVar("Result")

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for every channel
)


class Transport(Protocol):
    """Asks a load's bodies in turn."""

    async def ask(self, number: int, timeout_s: float | None) -> Answer:
        """Ask one.

        Args:
            number: unlike those of all bodies that wait.
            timeout_s: from now on; a stream has the load's deadline instead.
        """


@asynccontextmanager
async def connected(load: Load, address: str, outstanding: int | None = None) -> AsyncIterator[Transport]:
    """Open a load's connections, and close them afterwards.

    Args:
        outstanding: requests that wait at most; there are no more connections than that. None: as many as
            there may be.

    Raises:
        ConnectionError: no server answers there.
        TypeError: a picture that the protocol cannot send.
        ValueError: the address is not one.
    """
    bodies = load.bodies()
    count = min(load.connections, load.streams or outstanding or load.connections)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_aio_channel(address, _CHANNEL_OPTIONS)) for _ in range(count)
        ]
        for channel in channels:
            await _connect(channel, address)
        if load.streams:
            messages = [load.protocol.streamed(body, load.deadline_s) for body in bodies]
            streams = Streams(channels, load.protocol, messages, load.streams)
            stack.push_async_callback(streams.close)
            yield streams
        else:
            yield Calls(channels, load.protocol, bodies)


async def _connect(channel: grpc.aio.Channel, address: str) -> None:
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ConnectionError(f"no server answers at {address}")
        await channel.wait_for_state_change(state)


class Calls:
    """A call for every request."""

    def __init__(
        self, channels: Sequence[grpc.aio.Channel], protocol: WireProtocol, bodies: Sequence[bytes]
    ) -> None:
        # Bytes in, bytes out: the load has them ready.
        self._methods: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = [
            channel.unary_unary(protocol.method) for channel in channels
        ]
        self._protocol = protocol
        self._bodies = bodies

    async def ask(self, number: int, timeout_s: float | None) -> Answer:
        """See `Transport`."""
        method = self._methods[number % len(self._methods)]
        try:
            body = await method(self._bodies[number % len(self._bodies)], timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name, message=error.details() or "")
        return self._protocol.answer(body)


class Streams:
    """Calls that stay open, which the requests take in turn."""

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        protocol: WireProtocol,
        messages: Sequence[bytes],
        count: int,
    ) -> None:
        self._streams = [_Stream(channels[index % len(channels)], protocol) for index in range(count)]
        self._protocol = protocol
        self._messages = messages

    async def ask(self, number: int, timeout_s: float | None) -> Answer:
        """See `Transport`."""
        del timeout_s  # the messages have it
        message = self._protocol.numbered(number, self._messages[number % len(self._messages)])
        return await self._streams[number % len(self._streams)].ask(number, message)

    async def close(self) -> None:
        """Close the calls; what still waits for an answer gets none."""
        for stream in self._streams:
            await stream.close()


class _Stream:
    """One call that stays open."""

    def __init__(self, channel: grpc.aio.Channel, protocol: WireProtocol) -> None:
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(protocol.stream_method)()
        self._protocol = protocol
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._broken: Answer | None = None
        self._reader = asyncio.create_task(self._read())

    async def ask(self, number: int, message: bytes) -> Answer:
        if self._broken is not None:
            return self._broken
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        # Where the call broke, the reader knows how, and ends all that wait.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with self._writing:
                await self._call.write(message)
        return await answer

    async def close(self) -> None:
        self._call.cancel()
        await self._reader

    async def _read(self) -> None:
        code, text = grpc.StatusCode.UNKNOWN, ""
        try:
            while isinstance(message := await self._call.read(), bytes):  # else it is the end
                number, answer = self._protocol.streamed_answer(message)
                waiting = None if number is None else self._waiting.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
            code, text = await self._call.code(), await self._call.details() or ""
        except grpc.aio.AioRpcError as error:
            code, text = error.code(), error.details() or ""
        except asyncio.CancelledError:  # what `read` raises in a call that was cancelled, too
            code = grpc.StatusCode.CANCELLED
        # An end with OK is none for the requests that wait: they were not answered.
        status = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
        self._broken = Answer(status.name, message=text or "the stream ended", stream_ended=True)
        for lost in self._waiting.values():
            if not lost.done():
                lost.set_result(self._broken)


def run_on_event_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, on uvloop where it is installed: it costs a client less."""
    try:
        import uvloop
    except ModuleNotFoundError:  # it comes with the server
        return asyncio.run(main)
    return uvloop.run(main)
