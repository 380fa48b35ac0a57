"""The front ends of an engine: started, sent the models, asked for their counts, replaced when they end.

They listen on one port together; connections are spread over them by the kernel.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from modelzoo.v1 import frontend_pb2
from server.config import Settings
from server.errors import ModelZooError
from server.frontends import error_codec
from server.frontends.connection import Connection
from server.frontends.metrics import FrontendMetrics, FrontendProcessCollector
from server.frontends.reports import Counters, FrontendCounts, Series, add_statistics, summed
from server.frontends.supervisor import FrontendSupervisor
from server.liveness.supervision import Supervisor
from server.models.model import Model, State
from server.models.registry import ModelControl, Models
from server.shutdown import GracePeriod

REPORT_S = 1.0  # that a front end has to say what it counted
_AGREE_S = 5.0  # that front ends have to take note of a change
_LAST_S = 2.0  # that front ends have to end after the grace period


class FrontendPool:
    """All front ends of an engine; `open` them, `stop` them. Lives on the event loop.

    Args:
        port: that they listen on; the engine holds it.
        on_failure: called once, with the reason why the server should end.
    """

    def __init__(
        self,
        settings: Settings,
        port: int,
        models: Models,
        control: ModelControl,
        metrics: FrontendMetrics,
        log: FilteringBoundLogger,
        supervisor: Supervisor,
        on_failure: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._models = models
        self._control = control
        self._metrics = metrics
        self._log = log
        self._supervisor = supervisor
        self._on_failure = on_failure
        self._supervisors: list[FrontendSupervisor] = []
        self._serials = itertools.count(1)
        self._known: dict[int, Model] = {}  # by serial: those that are held, or that a front end still holds
        self._held: dict[str, int] = {}  # serials of the models that are held, by name
        self._state = 0  # counts the changes of the models
        self._serving = False
        self._fault = ""
        self._port = port

    @property
    def health(self) -> "FrontendPool":
        """Itself: states that are set here go to all front ends."""
        return self

    @property
    def missing(self) -> str:
        """Why no client can be answered; empty where one can."""
        return "" if self.pids() else "no front end runs"

    def exposed(self, registry: CollectorRegistry) -> CollectorRegistry:
        """Return what the metrics port shows: the engine's registry, and what front ends count and take."""
        registry.register(FrontendProcessCollector(self.pids))
        return summed(registry, FrontendCounts(self.counts, asyncio.get_running_loop(), 2 * REPORT_S))

    async def open(self) -> None:
        """Start all, and wait until all listen.

        Raises:
            StartError: a front end did not start.
        """
        self._supervisors = [
            FrontendSupervisor(
                number,
                self._settings,
                self._connect,
                self._welcome,
                self._metrics,
                self._log,
                self._supervisor,
                self._on_failure,
            )
            for number in range(1, self._settings.frontends + 1)
        ]
        results = await asyncio.gather(
            *(supervisor.listens for supervisor in self._supervisors), return_exceptions=True
        )
        if failures := [error for error in results if error is not None]:
            await self.close()
            raise failures[0]

    async def settle(self) -> None:
        """Do nothing: each front end has its requests go on when it stops."""

    def pids(self) -> dict[int, int]:
        """Return the process of each front end that lives, by its number."""
        numbered = enumerate([supervisor.pid for supervisor in self._supervisors], 1)
        return {number: pid for number, pid in numbered if pid is not None}

    def set_model(self, name: str, state: "State.ValueType") -> None:
        """Send all a model that changed, or that takes the place of another."""
        del state  # it is the model's
        model = self._models.get(name)
        if self._known.get(self._held.get(name, 0)) is not model:
            self._held[name] = next(self._serials)
            self._known[self._held[name]] = model
            self._forget()
        self._state += 1
        for connection in self._connections():
            if name in connection.pending.removed:  # it came back before the frame has left
                connection.pending.removed.remove(name)
            connection.send_model(self._held[name])
            connection.pending.state = self._state

    def forget_model(self, name: str) -> None:
        """Have all drop a model that is gone, and what was counted for it."""
        if self._held.pop(name, None) is None:
            return
        self._state += 1
        for connection in self._connections():
            connection.pending.removed.append(name)
            connection.pending.state = self._state
        self._forget()

    def set_server(self, *, serving: bool) -> None:
        """Send all whether the server serves."""
        self._serving = serving
        self._state += 1
        for connection in self._connections():
            connection.pending.serving = serving
            connection.pending.state = self._state

    def set_fault(self, reason: str) -> None:
        """Send all what is out of order in the engine; empty where nothing is."""
        self._fault = reason
        for connection in self._connections():
            connection.pending.fault = reason

    async def agree(self) -> None:
        """Wait until all know of the models what is known now; not for ever for one that hangs."""
        state = self._state
        with suppress(TimeoutError):
            async with asyncio.timeout(_AGREE_S):
                for supervisor in self._supervisors:
                    # One that does not listen yet will know all when it does.
                    while (connection := supervisor.listening) is not None and connection.seen < state:
                        connection.changed.clear()
                        await connection.changed.wait()

    async def answer(self, call: frontend_pb2.EngineCall) -> frontend_pb2.CallEnd:
        """Do what a front end asks for; what goes wrong is in the answer."""
        end = frontend_pb2.CallEnd(id=call.id)
        try:
            if call.HasField("statistics"):
                await self._report()
                for name in call.statistics.models:
                    message = end.statistics.add()
                    message.CopyFrom(self._models.ready(name).statistics_message())
                    for counters in self._counters():
                        if (more := counters.requests.get(self._held[name])) is not None:
                            add_statistics(message.inference_stats, more)
            elif call.HasField("refresh"):
                await self._models.refresh()
            elif call.HasField("load"):
                await self._control.load(call.load)
            else:
                await self._control.unload(call.unload)
            await self.agree()
        except Exception as error:  # noqa: BLE001 - it is the call's
            if not isinstance(error, ModelZooError):
                self._log.exception("call_failed")
            end.error.CopyFrom(error_codec.encode(error))
        return end

    async def counts(self) -> Mapping[str, Series]:
        """Ask all what they counted, and add it up; of one that does not answer, its last word counts."""
        await self._report()
        total = Counters()
        for counters in self._counters():
            counters.keep_models(self._held.keys())
            total.add(counters)
        return total.counts

    async def stop(self, grace: GracePeriod) -> None:
        """Have all answer what they accepted and end within the grace period; see `GrpcServer.stop`."""
        for supervisor in self._supervisors:
            supervisor.stop(grace.ends_s)
        tasks = [supervisor.task for supervisor in self._supervisors]
        await grace.wait(asyncio.wait(tasks))
        for supervisor in self._supervisors:
            supervisor.force_stop()
        await asyncio.wait(tasks, timeout=_LAST_S)
        await self.close()

    async def close(self) -> None:
        """End those that live, whatever they do."""
        for supervisor in self._supervisors:
            supervisor.task.cancel()
        await asyncio.gather(*(supervisor.task for supervisor in self._supervisors), return_exceptions=True)

    def _connect(self, number: int, memory: int) -> Connection:
        size_bytes = self._settings.frontend_memory_bytes
        return Connection(number, self._known, self, memory, size_bytes, self._log, self._supervisor)

    def _welcome(self, connection: Connection) -> None:
        connection.pending.welcome.CopyFrom(
            frontend_pb2.Welcome(
                number=connection.number,
                settings=self._settings.model_dump_json(),
                port=self._port,
                memory_bytes=self._settings.frontend_memory_bytes,
            )
        )
        for serial in self._held.values():
            connection.send_model(serial)
        connection.pending.serving = self._serving
        connection.pending.fault = self._fault
        connection.pending.state = self._state

    def _connections(self) -> list[Connection]:
        return [
            supervisor.connection for supervisor in self._supervisors if supervisor.connection is not None
        ]

    def _counters(self) -> Iterator[Counters]:
        for supervisor in self._supervisors:
            yield supervisor.past
            if supervisor.connection is not None:
                yield supervisor.connection.counters

    async def _report(self) -> None:
        """Have all report what they counted."""
        connections = [
            supervisor.listening for supervisor in self._supervisors if supervisor.listening is not None
        ]
        answered = await asyncio.gather(*(connection.report(REPORT_S) for connection in connections))
        self._metrics.missed.inc(answered.count(False))

    def _forget(self) -> None:
        """Forget models that are held no more, here or in a front end."""
        for serial, model in list(self._known.items()):
            if serial not in self._held.values() and model.holders.none.is_set():
                del self._known[serial]
                for counters in self._counters():
                    counters.forget(serial)
