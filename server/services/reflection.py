"""Server reflection: what services there are, for clients that have no .proto file."""

from collections.abc import AsyncIterator

from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.rpc import wire
from server.rpc.call import Call
from server.rpc.context import Methods
from server.rpc.handlers import Handlers, parser

SERVICE: str = reflection.SERVICE_NAME
_METHOD = "ServerReflectionInfo"


class Reflection:
    """Answers ``grpc.reflection.v1alpha.ServerReflection`` with grpcio's servicer.

    Args:
        services: full names of all services.
    """

    def __init__(self, *services: str) -> None:
        self._servicer = reflection.aio.ReflectionServicer((*services, SERVICE))
        self._parse = parser(reflection_pb2.ServerReflectionRequest, max_bytes=wire.TEXT)

    def methods(self, handlers: Handlers) -> Methods:
        """Return the service's methods."""
        return {_METHOD: handlers.other("bidi_stream", SERVICE, _METHOD, self._answer)}

    async def _answer(self, call: Call, deadline_s: float | None) -> None:
        del deadline_s
        responses = self._servicer.ServerReflectionInfo(self._requests(call), None)
        async for response in responses:  # type: ignore[attr-defined] # the stub takes it for a coroutine
            await call.write(response.SerializeToString())
            call.leave(call.held_bytes, call.requests)

    async def _requests(self, call: Call) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        while (body := await call.read()) is not None:
            yield self._parse(body)
