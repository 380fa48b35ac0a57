"""Builds a server out of its settings, and stops it in order.

The only file that wires: everything else is given what it needs.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from structlog.typing import FilteringBoundLogger

from artifact import pictures
from server import classifier, health, machine, open_inference, opening
from server.accounts import Accounts
from server.administration import Administration
from server.batcher import Batcher
from server.classifier import Classifier
from server.config import Settings
from server.decoding import Decoder, Limits
from server.descriptions import Descriptions
from server.device import Device, choose
from server.device_memory import DeviceMemoryCollector
from server.edge import Edge
from server.errors import StartError
from server.exposition import MetricsPort
from server.health import Health
from server.in_flight import InFlight
from server.lane import Lane
from server.metrics import Metrics
from server.model import State
from server.network import OpenNetwork
from server.open_inference import OpenInference
from server.ports import CONNECTION_OPTIONS, GenericOnly, address_of, require_free
from server.repository import Memory, Repository
from server.shared_memory import Regions
from server.turnover import Turnover

_MAX_CONCURRENT_RPCS = 4096  # the last fence: queue and decoders refuse earlier, and say more
# How long a stopping server still takes calls, to refuse them: gRPC may hold some that it has not handed
# over yet, and would cancel them without a word when it stops.
_REFUSING_S = 0.3


class Server:
    """A server: `open` it, `load` its models, `stop` it. Lives on one event loop.

    Args:
        open_network: opens a model's network; tests may give another.

    Raises:
        StartError: a setting, a port or the device is not usable.
    """

    def __init__(
        self, settings: Settings, log: FilteringBoundLogger, open_network: OpenNetwork = opening.open_network
    ) -> None:
        self._settings = settings
        self._log = log
        self._open_network = open_network
        self._stack = contextlib.ExitStack()
        self._health = Health(classifier.SERVICE, open_inference.SERVICE)
        self._tried_all = False
        self._hurry = asyncio.Event()
        self.grpc_port = 0
        self.metrics_port = 0

    async def open(self) -> None:
        """Open both ports; requests for a model are answered with UNAVAILABLE until it is READY.

        Raises:
            StartError: a port or the device is not usable.
        """
        settings = self._settings
        choice = choose(settings.device, settings.threads_per_lane)
        device = choice.device
        if choice.fallback_reason:
            self._log.warning("device_fallback", requested=settings.device, reason=choice.fallback_reason)
        metrics = Metrics(_registry())
        metrics.set_device(device.name, settings.device, fell_back=bool(choice.fallback_reason))
        memory = self._memory(device, metrics.registry)

        wake = threading.Condition()
        lanes = settings.lanes if device.ordinal is None else 1
        self._batcher = Batcher(
            wake, self._log_failure, lanes=lanes, max_queue_delay_s=settings.max_queue_delay_s
        )
        self._lane = Lane(wake, self._batcher, lanes)
        self._decoder = Decoder(
            settings.decoder_threads,
            Limits(
                pictures.Limits(settings.max_image_pixels),
                settings.max_request_pixels,
                settings.max_decoding_pixels,
            ),
        )
        self._stack.callback(self._decoder.close)
        self._repository = Repository(
            folder=settings.repository,
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
            on_state=self._on_state,
        )
        self._turnover = Turnover(self._repository)
        try:
            self._repository.find()
            await self._listen(metrics)
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
            threads_per_lane=device.threads,
        )

    async def load(self) -> list[str]:
        """Load every model, and report what serves.

        Returns:
            The names of the models that are READY.
        """
        await self._turnover.load_all()
        ready = [model.entry.name for model in self._repository if model.is_ready]
        if ready:
            self._log.info("serving", models=ready)
        else:
            self._log.warning("no_model_ready", repository=str(self._settings.repository))
        self._tried_all = True
        self._health.set_server(serving=bool(ready))
        return ready

    async def stop(self) -> None:
        """Answer what was accepted, refuse what is new, and end within the grace period."""
        ends_s = time.monotonic() + self._settings.grace_s
        self._log.info("stopping", grace_s=self._settings.grace_s)
        self._health.drain()
        self._repository.drain()
        await self._wait(asyncio.sleep(_REFUSING_S), ends_s)
        await self._wait(self._in_flight.idle.wait(), ends_s)
        # What is left is late, or a stream that only listens.
        await self._grpc.stop(None)
        self._batcher.close()
        idle = await asyncio.get_running_loop().run_in_executor(
            None, self._lane.stop, max(0.0, ends_s - time.monotonic())
        )
        self._stack.close()
        self._log.info("stopped", lane_idle=idle)

    def hurry(self) -> None:
        """End the grace period of a stop now."""
        self._hurry.set()

    @property
    def address(self) -> str:
        """Give the address of the gRPC services."""
        return address_of(self._settings.host, self.grpc_port)

    async def _wait(self, what: Coroutine[None, None, object], ends_s: float) -> None:
        """Wait for something until it is there, the grace period has ended or somebody is in a hurry."""
        tasks = [asyncio.ensure_future(what), asyncio.ensure_future(self._hurry.wait())]
        await asyncio.wait(
            tasks, timeout=max(0.0, ends_s - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
        )
        for task in tasks:
            task.cancel()

    async def _listen(self, metrics: Metrics) -> None:
        """Open both ports.

        Raises:
            StartError: a port is in use, or the host is not ours.
        """
        settings = self._settings
        for port in (settings.metrics_port, settings.grpc_port):
            require_free(settings.host, port)
        http = MetricsPort(metrics.registry, settings.host, settings.metrics_port)
        self._stack.callback(http.close)
        self.metrics_port = http.port
        self._grpc = grpc.aio.server(
            maximum_concurrent_rpcs=_MAX_CONCURRENT_RPCS,
            options=[
                *CONNECTION_OPTIONS,
                ("grpc.max_receive_message_length", settings.max_message_bytes),
            ],
        )
        self._in_flight = InFlight(settings.max_bytes_in_flight)
        edge = Edge(metrics, self._log, self._in_flight)
        self._grpc.add_generic_rpc_handlers((*self._services(edge, metrics), self._health.handlers()))
        names = (classifier.SERVICE, open_inference.SERVICE, health.SERVICE, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(names), GenericOnly(self._grpc)
        )
        self.grpc_port = self._grpc.add_insecure_port(address_of(settings.host, settings.grpc_port))
        await self._grpc.start()

    def _services(self, edge: Edge, metrics: Metrics) -> Iterator[grpc.GenericRpcHandler]:
        settings = self._settings
        accounts = Accounts(self._repository, metrics)
        yield Classifier(
            self._repository, accounts, self._decoder, self._batcher, settings.max_images_per_request
        ).handlers(edge)
        regions = Regions()
        self._stack.callback(regions.unregister, "")
        extensions = ["classification", "model_configuration", "schedule_policy", "statistics"]
        if settings.allow_client_shm:
            extensions.append("system_shared_memory")
        if settings.allow_model_control:
            extensions.append("model_repository")
        yield OpenInference(
            accounts,
            self._decoder,
            self._batcher,
            regions,
            self._in_flight,
            settings.max_images_per_request,
            unavailable_when_full=settings.status_compat == "triton",
        ).handlers(
            edge,
            Descriptions(self._repository, self._health, extensions),
            Administration(
                self._repository,
                self._turnover,
                regions,
                allow_model_control=settings.allow_model_control,
                allow_client_shm=settings.allow_client_shm,
            ),
        )

    def _on_state(self, name: str, state: "State.ValueType") -> None:
        self._health.set_model(name, state)
        if self._tried_all:
            self._health.set_server(serving=any(model.is_ready for model in self._repository))

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
