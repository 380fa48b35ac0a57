"""From grpc.aio's calls and handlers to those of `rpc`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

import grpc
from grpc_status import rpc_status

from server.rpc import statuses
from server.rpc.context import Headers, Method, PeerGoneError

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
RpcMethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

_TURNS = 4  # of the event loop, in which gRPC's cancellation of a call gets to its task


class GrpcContext:
    """A call of grpc.aio; see `server.rpc.context.Context`."""

    __slots__ = ("_call",)

    def __init__(self, call: ServicerContext) -> None:
        self._call = call

    def peer(self) -> str:
        """Return the other end."""
        return self._call.peer()

    def headers(self) -> Headers:
        """Return the client's metadata."""
        return self._call.invocation_metadata() or ()  # type: ignore[return-value] # pairs, if any

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline."""
        return self._call.time_remaining()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have a callback called when the call has ended."""
        self._call.add_done_callback(lambda _: callback())  # type: ignore[arg-type] # it passes the call alone

    async def read(self) -> bytes | None:
        """Wait for the next message.

        Raises:
            PeerGoneError: the call has ended already.
        """
        try:
            body = await self._call.read()
            if isinstance(body, bytes):
                return body
            # Where gRPC has ended the call itself (the message is too large), that comes before this returns.
            await self._call.read()
        except grpc.aio.BaseError as error:
            raise PeerGoneError from error
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        return None

    async def write(self, bodies: Sequence[bytes]) -> None:
        """Send messages; gRPC takes one at a time.

        Raises:
            PeerGoneError: the call has ended already.
        """
        try:
            for body in bodies:
                await self._call.write(body)
        except grpc.aio.BaseError as error:
            raise PeerGoneError from error


def handler_of(method: Method) -> RpcMethodHandler:
    """Make grpcio's handler of a method: it returns the answer, or ends the call with an error's status.

    Every method is one of many messages to it: only so is its code there before the first one.
    """

    async def answer(requests: object, call: ServicerContext) -> bytes:
        answered = await method.answer(GrpcContext(call))
        if isinstance(answered, bytes):
            return answered
        try:
            await call.abort_with_status(rpc_status.to_status(statuses.describe(answered)))
        finally:
            # gRPC keeps the error that this raises, the error its frames, and the frames what they name.
            del requests, call
        raise answered  # never reached: abort raises

    if method.answers_once:
        return grpc.stream_unary_rpc_method_handler(answer)
    return grpc.stream_stream_rpc_method_handler(answer)
