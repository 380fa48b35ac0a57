"""The standard health service: one entry per model and per service, and "" for the whole server.

grpcio's own servicer writes to a watcher while it holds the lock that every change of a status needs, so
one watcher that does not read would hold up the others, and the stop. Here nothing is held while writing.
"""

import asyncio

from grpc_health.v1 import health_pb2

from modelzoo.v1 import classifier_pb2
from server.errors import ModelNotFoundError
from server.rpc import wire
from server.rpc.call import Call
from server.rpc.context import Methods
from server.rpc.handlers import Handlers, parser

SERVICE = "grpc.health.v1.Health"
SERVER = ""  # the name under which probes ask for the whole server

Request = health_pb2.HealthCheckRequest
Response = health_pb2.HealthCheckResponse
_parse = parser(Request, max_bytes=wire.TEXT)


class Health:
    """What `grpc.health.v1` answers; lives on the event loop.

    Args:
        services: names of services, which serve when the server does.
    """

    def __init__(self, *services: str) -> None:
        self._whole = (SERVER, *services)
        self._serving: dict[str, bool] = dict.fromkeys(self._whole, False)
        self._draining = False
        self._fault = False
        self._watchers: set[asyncio.Event] = set()

    def set_model(self, name: str, state: "classifier_pb2.ModelState.ValueType") -> None:
        """Report a model: SERVING when it is READY."""
        self._set(name, serving=state == classifier_pb2.MODEL_STATE_READY)

    def forget_model(self, name: str) -> None:
        """Drop the entry of a model that is gone; what watches it gets SERVICE_UNKNOWN."""
        self._serving.pop(name, None)
        for changed in self._watchers:
            changed.set()

    def set_server(self, *, serving: bool) -> None:
        """Report the whole server, and with it its services."""
        for name in self._whole:
            self._set(name, serving=serving)

    def set_fault(self, reason: str) -> None:
        """Report NOT_SERVING for everything while there is a reason; empty where there is none any more."""
        self._fault = bool(reason)
        for changed in self._watchers:
            changed.set()

    def is_serving(self, name: str) -> bool:
        """Return what is reported."""
        return self._serving.get(name, False) and not self._fault

    def drain(self) -> None:
        """Report NOT_SERVING for everything, for good, and end what watches."""
        self._draining = True
        for name in self._serving:
            self._set(name, serving=False)

    def methods(self, handlers: Handlers) -> Methods:
        """Return the service's methods; they have pools of their own: no other call keeps them out."""
        return {
            "Check": handlers.unary(SERVICE, "Check", _parse, self._check, handlers.calls.probes),
            "Watch": handlers.other("server_stream", SERVICE, "Watch", self._watch, handlers.calls.watches),
        }

    def _set(self, name: str, *, serving: bool) -> None:
        self._serving[name] = serving and not self._draining
        for changed in self._watchers:
            changed.set()

    def _status(self, name: str) -> int:
        if name not in self._serving:
            return Response.SERVICE_UNKNOWN
        return Response.SERVING if self.is_serving(name) else Response.NOT_SERVING

    async def _check(self, request: Request, deadline_s: float | None) -> bytes:
        del deadline_s
        status = self._status(request.service)
        if status == Response.SERVICE_UNKNOWN:
            raise ModelNotFoundError("no model of that name")
        return Response(status=status).SerializeToString()

    async def _watch(self, call: Call, deadline_s: float | None) -> None:
        """Send the status, and every change of it; an unknown model is reported as such and may yet come."""
        del deadline_s
        request = _parse(await call.read_one())
        call.leave(call.held_bytes, call.requests)  # a stop waits for requests, and not for this
        changed = asyncio.Event()
        self._watchers.add(changed)
        sent = None
        try:
            while True:
                changed.clear()
                draining = self._draining  # may change while the write waits: the last word is yet to come
                if (status := self._status(request.service)) != sent:
                    await call.write(Response(status=status).SerializeToString())
                    sent = status
                if draining:
                    return
                call.idle()
                await changed.wait()
        finally:
            self._watchers.discard(changed)
