"""The standard health service: one entry per model, and "" for the whole server."""

from grpc_health.v1 import health, health_pb2

from modelzoo.v1 import classifier_pb2

SERVER = ""  # the name under which probes ask for the whole server


class Health:
    """What `grpc.health.v1` answers.

    Attributes:
        servicer: answers the calls.
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set_model(self, name: str, state: "classifier_pb2.ModelState.ValueType") -> None:
        """Report a model: SERVING when it is READY."""
        await self._set(name, serving=state == classifier_pb2.MODEL_STATE_READY)

    async def set_server(self, *, serving: bool) -> None:
        """Report the whole server."""
        await self._set(SERVER, serving=serving)

    async def drain(self) -> None:
        """Report NOT_SERVING for everything, for good."""
        await self.servicer.enter_graceful_shutdown()

    async def _set(self, name: str, *, serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        await self.servicer.set(name, response.SERVING if serving else response.NOT_SERVING)
