"""Builds a server out of its settings, and stops it in order.

The only file that wires: everything else is given what it needs.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from structlog.typing import FilteringBoundLogger

from modelzoo.v1 import open_inference_pb2
from server import machine, model_config, opening
from server.batcher import Batcher
from server.config import Settings
from server.device import Device, choose
from server.device_memory import DeviceMemoryCollector
from server.errors import StartError
from server.exposition import MetricsPort
from server.front import Front
from server.frontend_metrics import FrontendMetrics
from server.frontend_processes import FrontendProcessCollector
from server.frontends import REPORT_S, Frontends
from server.grace import Grace
from server.health import Health
from server.lane import Lane
from server.metrics import Metrics
from server.model import ReadyModel, State
from server.network import OpenNetwork
from server.ports import address_of, require_free
from server.reports import Series, Sum
from server.repository.lifecycle import Lifecycle
from server.repository.loader import Loader, Memory
from server.repository.repository import Repository


class Server:
    """A server: `open` it, `load` its models, `stop` it. Lives on one event loop.

    Args:
        open_network: opens a model's network; tests may give another.
        on_failure: told why the server, which runs, should end.

    Raises:
        StartError: a setting, a port or the device is not usable.
    """

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        open_network: OpenNetwork = opening.open_network,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._open_network = open_network
        self._on_failure = on_failure
        self._stack = contextlib.ExitStack()
        self._tried_all = False
        self._grace = Grace()
        self.grpc_port = 0
        self.metrics_port = 0

    async def open(self) -> None:
        """Open both ports; requests for a model are answered with UNAVAILABLE until it is READY.

        Raises:
            StartError: a port or the device is not usable.
        """
        settings = self._settings
        choice = choose(settings.device, settings.intra_op_threads)
        device = choice.device
        if choice.fallback_reason:
            self._log.warning("device_fallback", requested=settings.device, reason=choice.fallback_reason)
        metrics = Metrics(_registry())
        metrics.set_device(device.name, settings.device, fell_back=bool(choice.fallback_reason))
        memory = self._memory(device, metrics.registry)

        wake = threading.Condition()
        lanes = settings.lanes if device.ordinal is None else 1
        self._batcher = Batcher(
            wake,
            self._log_failure,
            lanes=lanes,
            side_by_side=max(1.0, min(lanes, machine.core_count() / device.threads)),
            max_queue_delay_s=settings.max_queue_delay_s,
        )
        self._lane = Lane(wake, self._batcher, lanes)
        loader = Loader(
            device=device,
            lane=self._lane,
            batcher=self._batcher,
            metrics=metrics,
            memory=memory,
            open_network=self._open_network,
            max_batch_size=settings.max_batch_size,
            max_queue_size=settings.max_queue_size,
            precision=settings.precision,
            model_precisions=settings.model_precisions,
            model_batch_sizes=settings.model_batch_sizes,
            log=self._log,
            timeout_s=settings.load_timeout_s,
            max_model_bytes=settings.max_model_bytes,
        )
        self._repository = Repository(
            settings.repository, loader, metrics, self._log, self._on_state, self._on_gone
        )
        self._turnover = Lifecycle(self._repository)
        frontend_metrics = FrontendMetrics(metrics.registry)
        if settings.frontends:
            self._front: Front | Frontends = Frontends(
                settings,
                self._repository,
                self._batcher,
                self._turnover,
                frontend_metrics,
                self._log,
                self._on_failure,
            )
            self._told: Health | Frontends = self._front
        else:
            self._front = Front(settings, metrics, self._repository, self._turnover, _tell, self._log)
            self._told = self._front.health
        try:
            self._repository.find()
            await self._listen(metrics.registry)
        except (StartError, OSError) as error:
            self._lane.stop(0)
            self._stack.close()
            raise StartError(str(error)) from error
        self._log.info(
            "listening",
            grpc=self.address,
            metrics=f"http://{address_of(settings.host, self.metrics_port)}/metrics",
            device=device.name,
            lanes=lanes,
            intra_op_threads=device.threads,
            frontends=settings.frontends,
        )

    async def load(self) -> list[str]:
        """Load every model, and report what serves.

        Returns:
            The names of the models that are READY.
        """
        await self._turnover.load_all()
        ready = [model.entry.name for model in self._repository if model.is_ready]
        self._tried_all = True
        self._told.set_server(serving=bool(ready))
        if isinstance(self._front, Frontends):
            await self._front.agree()
        if ready:
            self._log.info("serving", models=ready)
        else:
            self._log.warning("no_model_ready", repository=str(self._settings.repository))
        return ready

    async def stop(self) -> None:
        """Answer what was accepted, refuse what is new, and end within the grace period."""
        self._grace.ends_s = time.monotonic() + self._settings.grace_s
        self._log.info("stopping", grace_s=self._settings.grace_s)
        self._repository.drain()
        await self._front.stop(self._grace)
        self._batcher.close()
        idle = await asyncio.get_running_loop().run_in_executor(None, self._lane.stop, self._grace.left_s)
        self._stack.close()
        self._log.info("stopped", lane_idle=idle)

    def hurry(self) -> None:
        """End the grace period of a stop now."""
        self._grace.hurried.set()

    @property
    def address(self) -> str:
        """Give the address of the gRPC services."""
        return address_of(self._settings.host, self.grpc_port)

    async def _listen(self, registry: CollectorRegistry) -> None:
        """Open both ports.

        Raises:
            StartError: a port is in use, or the host is not ours; or a front end did not start.
        """
        settings = self._settings
        for port in (settings.metrics_port, settings.grpc_port):
            require_free(settings.host, port)
        if isinstance(self._front, Frontends):
            registry.register(FrontendProcessCollector(self._front.pids))
            registry = self._sum(registry, self._front)
        http = MetricsPort(registry, settings.host, settings.metrics_port)
        self._stack.callback(http.close)
        self.metrics_port = http.port
        self.grpc_port = await self._front.open(settings.grpc_port)

    def _sum(self, own: CollectorRegistry, frontends: Frontends) -> CollectorRegistry:
        """Give a registry that shows what the front ends count, too; it is read on threads."""
        loop = asyncio.get_running_loop()

        def others() -> Mapping[str, Series]:
            return asyncio.run_coroutine_threadsafe(frontends.counts(), loop).result(2 * REPORT_S)

        registry = CollectorRegistry()
        registry.register(Sum(own, others))
        return registry

    def _on_state(self, name: str, state: "State.ValueType") -> None:
        self._told.set_model(name, state)
        if self._tried_all:
            self._told.set_server(serving=any(model.is_ready for model in self._repository))

    def _on_gone(self, name: str) -> None:
        self._told.forget_model(name)

    def _memory(self, device: Device, registry: CollectorRegistry) -> Memory:
        if device.ordinal is None:
            return Memory(machine.host_memory_bytes)
        try:
            gpu = machine.GpuMemory(device.ordinal)
        except OSError as error:
            self._log.warning("device_memory_unknown", reason=str(error))
            return Memory(machine.host_memory_bytes)
        registry.register(DeviceMemoryCollector(device.name, gpu.used_bytes, gpu.total_bytes))
        return Memory(machine.host_memory_bytes, gpu.used_bytes)

    def _log_failure(self, model: str, error: Exception) -> None:
        self._log.error("batch_failed", model=model, error=f"{type(error).__name__}: {error}")


def _registry() -> CollectorRegistry:
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for every counter and histogram, which nobody reads
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


async def _tell(models: Sequence[ReadyModel]) -> Sequence[open_inference_pb2.ModelStatistics]:
    return [model_config.statistics(model) for model in models]
