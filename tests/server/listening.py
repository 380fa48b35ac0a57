"""Methods behind a real port of gRPC, for tests that need no server around them."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc
from prometheus_client import CollectorRegistry

from server.config import Settings
from server.grpc_server import bounds_of
from server.liveness.supervision import Faults, Supervisor
from server.observability import logs
from server.observability.metrics import Metrics
from server.observability.vital_metrics import VitalMetrics
from server.ports import listen_shared, reserve
from server.rpc.calls import Calls
from server.rpc.connections import Sockets
from server.rpc.context import Methods
from server.rpc.guard import Guard
from server.rpc.handlers import Handlers
from server.rpc.in_flight import InFlight
from server.rpc.limits import Limits
from server.rpc.transports.grpc_aio import GrpcAio
from server.rpc.transports.h2corn import H2corn
from server.rpc.transports.transport import Transport


def limits(**changed: float) -> Limits:
    """The limits of the default settings, but for some."""
    settings = Settings().model_dump()
    usual = {
        "max_calls": settings["max_concurrent_calls"],
        **{name: settings[name] for name in Limits.__dataclass_fields__ if name in settings},
    }
    return Limits(**(usual | changed))


chosen = ["grpc"]  # the transport; the command line of the tests may have another


class Port:
    """What is behind the port.

    Attributes:
        channel: to it.
        faults: what is out of order now.
    """

    channel: grpc.aio.Channel
    address: str

    def __init__(self, bounds: Limits, max_bytes: int, form: str) -> None:
        self.registry, self.log = CollectorRegistry(), io.StringIO()
        self.in_flight = InFlight(max_bytes)
        self.logger = log = logs.make(form, self.log)
        self.faults, self.failures = Faults(), []
        vital = VitalMetrics(self.registry)
        self.supervisor = Supervisor(
            self.faults, vital, log, self.failures.append, sleep=lambda _: asyncio.sleep(0)
        )
        metrics = Metrics(self.registry)
        self.calls = Calls(bounds, self.in_flight, log, metrics.peer_limited)
        self.handlers = Handlers(metrics, log, self.calls)
        self.listener: Transport


@asynccontextmanager
async def listening(
    methods: Callable[[Handlers], Methods],
    bounds: Limits | None = None,
    max_bytes: int = 1 << 20,
    form: str = "json",
    queues: int = 1,
    *,
    accept_compressed: bool = False,
) -> AsyncIterator[Port]:
    """Serve methods, given by their paths, by the transport that is `chosen`."""
    bounds = bounds or limits()
    port = Port(bounds, max_bytes, form)
    with reserve("127.0.0.1", 0) as reserved:
        number = reserved.getsockname()[1]
        port.address = f"127.0.0.1:{number}"
        settings = Settings(max_idle_s=bounds.max_idle_s, accept_compressed=accept_compressed)
        of_connections = bounds_of(settings, 64 << 20, settings.max_connections)
        served = (of_connections, methods(port.handlers), port.handlers.unknown())
        if chosen[0] == "h2corn":
            port.listener = H2corn(partial(listen_shared, "127.0.0.1", number), *served)
        else:
            port.listener = GrpcAio(port.address, *served, queues)
        await port.listener.open()
        guard = Guard(port.calls, port.logger, counts_unread=port.listener.holds_answers)
        watch = partial(guard.watch, Sockets(number))
        port.supervisor.supervise("accept_loop", port.listener.accept, repair=port.listener.reopen)
        port.supervisor.supervise("guard", watch, repair=partial(asyncio.sleep, 0))
        try:
            async with grpc.aio.insecure_channel(
                port.address, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as port.channel:
                yield port
        finally:
            await port.supervisor.stop()
            await port.listener.close(None)
            assert port.failures == []
