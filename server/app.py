"""Builds a server out of its settings, runs it, and stops it in order.

The only file that wires: everything else is given what it needs.
"""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from structlog.typing import FilteringBoundLogger

from artifact.pictures import Limits
from modelzoo.v1 import classifier_pb2
from server import classifier, machine
from server.batcher import Batcher
from server.classifier import Classifier
from server.config import Settings
from server.decoding import Decoder
from server.device import Device, choose
from server.edge import Edge
from server.errors import StartError
from server.health import Health
from server.lane import Lane
from server.metrics import DeviceMemoryCollector, Metrics
from server.network import OnnxNetwork, OpenNetwork
from server.repository import Memory, Repository, State

Listening = TypeVar("Listening")

_CONNECTION_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.max_allowed_incoming_connections", 1024),
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]


_MAX_CONCURRENT_RPCS = 4096  # the last fence: queue and decoders refuse earlier, and say more


class Server:
    """A server: `open` it, `load` its models, `stop` it. Lives on one event loop.

    Args:
        open_network: opens a model's network; tests may give another.

    Raises:
        StartError: a setting, a port or the device is not usable.
    """

    def __init__(
        self, settings: Settings, log: FilteringBoundLogger, open_network: OpenNetwork = OnnxNetwork
    ) -> None:
        self._settings = settings
        self._log = log
        self._open_network = open_network
        self._stack = contextlib.ExitStack()
        self._health = Health()
        self._health_updates: set[asyncio.Task[None]] = set()
        self._stopping = False
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
        self._batcher = Batcher(wake, self._log_failure)
        lanes = settings.lanes if device.ordinal is None else 1
        self._lane = Lane(wake, self._batcher, lanes)
        self._decoder = Decoder(
            settings.decoder_threads, settings.max_decoding_images, Limits(settings.max_image_pixels)
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
            log=self._log,
            on_state=self._report_state,
        )
        self._repository.find()
        try:
            await self._listen(metrics)
        except StartError:
            self._lane.stop(0)
            self._stack.close()
            raise
        self._log.info(
            "listening",
            grpc=_address(settings.host, self.grpc_port),
            metrics=f"http://{_address(settings.host, self.metrics_port)}/metrics",
            device=device.name,
            lanes=lanes,
            threads_per_lane=device.threads,
        )

    async def load(self) -> list[str]:
        """Load every model, and report what serves.

        Returns:
            The names of the models that are READY.
        """
        await self._repository.load_all()
        ready = [m.entry.name for m in self._repository if m.status.state == State.MODEL_STATE_READY]
        if ready:
            self._log.info("serving", models=ready)
        else:
            self._log.warning("no_model_ready", repository=str(self._settings.repository))
        await self._health.set_server(serving=bool(ready))
        return ready

    async def stop(self) -> None:
        """Answer what was accepted, take nothing new, and end within the grace period."""
        if self._stopping:
            return
        self._stopping = True
        ends_s = time.monotonic() + self._settings.grace_s
        self._log.info("stopping", grace_s=self._settings.grace_s)
        await self._health.drain()
        self._repository.drain()
        await self._grpc.stop(self._settings.grace_s)
        self._batcher.close()
        stopped = await asyncio.to_thread(self._lane.stop, max(0.0, ends_s - time.monotonic()))
        self._stack.close()
        self._log.info("stopped", lane_idle=stopped)

    async def _listen(self, metrics: Metrics) -> None:
        """Open both ports.

        Raises:
            StartError: a port is in use, or the host is not ours.
        """
        settings = self._settings
        http, _ = _listening(
            lambda: start_http_server(settings.metrics_port, settings.host, registry=metrics.registry),
            _address(settings.host, settings.metrics_port),
        )
        self._stack.callback(http.server_close)
        self._stack.callback(http.shutdown)
        self.metrics_port = http.server_port
        self._grpc = grpc.aio.server(
            maximum_concurrent_rpcs=_MAX_CONCURRENT_RPCS,
            options=[
                *_CONNECTION_OPTIONS,
                ("grpc.max_receive_message_length", settings.max_message_bytes),
            ],
        )
        service = Classifier(
            self._repository, self._decoder, self._batcher, metrics, settings.max_images_per_request
        )
        self._grpc.add_generic_rpc_handlers((service.handlers(Edge(metrics, self._log)),))
        names = (classifier.SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME)
        generic = _GenericOnly(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, generic)  # type: ignore[arg-type]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(names), generic
        )
        address = _address(settings.host, settings.grpc_port)
        self.grpc_port = _listening(lambda: self._grpc.add_insecure_port(address), address)
        await self._health.set_server(serving=False)
        await self._grpc.start()

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

    def _report_state(self, model: str, state: "classifier_pb2.ModelState.ValueType") -> None:
        if self._stopping:
            return  # health has said NOT_SERVING for good
        update = asyncio.get_running_loop().create_task(self._health.set_model(model, state))
        self._health_updates.add(update)  # the loop itself holds no task
        update.add_done_callback(self._health_updates.discard)

    def _log_failure(self, model: str, error: Exception) -> None:
        self._log.error("batch_failed", model=model, error=f"{type(error).__name__}: {error}")


class _GenericOnly:
    """A server that leaves out `add_registered_method_handlers`.

    Generated code registers every method twice over, as a generic handler and by name; each name costs
    every call of an asyncio server time (11 % with 20 of them), and wins nothing here.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Leave the names out."""


def _listening(listen: Callable[[], Listening], address: str) -> Listening:
    """Open a port.

    Raises:
        StartError: it is in use, or the host is not ours.
    """
    try:
        return listen()
    except (OSError, RuntimeError) as error:  # of the metrics server; of gRPC
        raise StartError(f"cannot listen on {address}: {_cause(address) or error}") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # IPv6 wants brackets


def _cause(address: str) -> str:
    """Ask the system why an address cannot be listened on; gRPC does not tell."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=family):
            return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _registry() -> CollectorRegistry:
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for every counter and histogram, which nobody reads
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


async def serve(
    settings: Settings, log: FilteringBoundLogger, on_serving: Callable[[Server, list[str]], None]
) -> None:
    """Run a server until SIGTERM or SIGINT, then stop it in order.

    Args:
        on_serving: told once when every model was tried: the server, and the READY models' names.

    Raises:
        StartError: a setting, a port or the device is not usable.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    server = Server(settings, log)
    await server.open()
    loading = loop.create_task(server.load())
    stopping = loop.create_task(told_to_stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        on_serving(server, loading.result())
        await stopping
    else:
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
    await server.stop()
