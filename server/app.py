"""Builds a server out of its settings, and stops it in order.

A composition root, as `process`, `frontend` and `grpc_server` are: the rooms are given what they need.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial

from structlog.typing import FilteringBoundLogger

from artifact import execution, files
from artifact.errors import first_line
from server import ports
from server.batching.batcher import Batcher
from server.batching.lane import Lane
from server.config import Settings
from server.errors import StartError
from server.frontends.front import Front
from server.frontends.metrics import FrontendMetrics
from server.frontends.pool import FrontendPool
from server.grpc_server import GrpcServer
from server.liveness.monitor import Monitor
from server.models.model import State
from server.models.registry import statistics_here
from server.observability.exposition import MetricsPort
from server.observability.metrics import Metrics
from server.observability.registry import process_registry
from server.repository.lifecycle import Lifecycle
from server.repository.loader import Loader
from server.repository.memory import open_memory
from server.repository.repository import Repository
from server.runtime import opening
from server.runtime.device import choose
from server.runtime.network import OpenNetwork
from server.shutdown import GracePeriod


class Server:
    """A server: `open` it, `load` its models, `stop` it. Made, and living, on one event loop.

    Args:
        open_network: opens a model's network; tests may give another.
        on_failure: called, on the event loop, with the reason why the server, which runs, should end.
        on_hopeless: called on a thread with the reason why the process should end at once.

    Attributes:
        grpc_port: of the gRPC services; taken, but closed until `open`.
        metrics_port: of the metrics; 0 until `open`.

    Raises:
        StartError: a setting, the gRPC port or the device is not usable.
    """

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        open_network: OpenNetwork = opening.open_network,
        on_failure: Callable[[str], None] = lambda _: None,
        on_hopeless: Callable[[str], None] = lambda _: None,
    ) -> None:
        # One address for all that is probed, bound and shown, in front ends too.
        settings = settings.model_copy(update={"host": ports.resolve(settings.host)})
        if settings.grpc_port == settings.metrics_port != 0:
            raise StartError(f"grpc_port and metrics_port are both {settings.grpc_port}; each needs its own")
        if reason := files.why_unreadable(settings.repository):
            raise StartError(f"repository: {reason}")
        choice = choose(settings.device, settings.intra_op_threads)
        self._device = device = choice.device
        self._settings = settings
        self._log = log
        self._tried_all = False
        self._is_serving = self._is_stopping = False
        self._grace = GracePeriod()
        self._stack = contextlib.ExitStack()
        # Held, so that it stays ours while gRPC, or a front end, opens it anew.
        reserved = self._stack.enter_context(ports.reserve(settings.host, settings.grpc_port))
        self.grpc_port: int = reserved.getsockname()[1]
        self.metrics_port = 0
        if choice.fallback_reason:
            log.warning("device_fallback", requested=settings.device, reason=choice.fallback_reason)
        self._metrics = metrics = Metrics(process_registry())
        metrics.set_device(device.name, settings.device, fell_back=bool(choice.fallback_reason))
        memory = open_memory(device, metrics.registry, log)

        wake = threading.Condition()
        lanes = settings.lanes if device.ordinal is None else 1
        self._batcher = Batcher(
            wake,
            self._log_failure,
            lanes=lanes,
            side_by_side=max(1.0, min(lanes, execution.core_count() / device.threads)),
            max_queue_delay_s=settings.max_queue_delay_s,
        )
        self._monitor = Monitor(
            settings,
            metrics.registry,
            log,
            on_fault=self._publish_fault,
            on_failure=on_failure,
            on_hopeless=on_hopeless,
        )
        self._stack.callback(self._monitor.close)
        self._lane = Lane(wake, self._batcher, lanes, self._monitor.lane_failed)
        self._monitor.watch_lane(self._lane.running)
        loader = Loader(
            device=device,
            lane=self._lane,
            batcher=self._batcher,
            metrics=metrics,
            memory=memory,
            open_network=open_network,
            max_batch_size=settings.max_batch_size,
            max_loop_s=settings.max_loop_s,
            max_queue_size=settings.max_queue_size,
            precision=settings.precision,
            model_precisions=settings.model_precisions,
            model_batch_sizes=settings.model_batch_sizes,
            log=log,
            timeout_s=settings.load_timeout_s,
            max_model_bytes=settings.max_model_bytes,
        )
        self._repository = Repository(
            settings.repository, loader, metrics, log, self._on_state, self._on_gone
        )
        self._lifecycle = Lifecycle(self._repository)
        frontend_metrics = FrontendMetrics(metrics.registry)
        supervisor = self._monitor.supervisor
        self._front: Front
        if settings.frontends:
            self._front = FrontendPool(
                settings,
                self.grpc_port,
                self._repository,
                self._lifecycle,
                frontend_metrics,
                log,
                supervisor,
                on_failure,
            )
        else:
            self._front = GrpcServer(
                settings,
                self.grpc_port,
                metrics,
                self._repository,
                self._lifecycle,
                statistics_here,
                log,
                supervisor,
            )

    async def open(self) -> None:
        """Open both ports; requests for a model are answered with UNAVAILABLE until it is READY.

        Raises:
            StartError: a port is not usable, or a front end did not start.
        """
        settings = self._settings
        try:
            self._repository.find()
            self._open_metrics_port()
            await self._front.open()
        except (StartError, OSError, RuntimeError) as error:  # RuntimeError: gRPC's, of a port
            self._lane.stop(0)
            self._stack.close()
            raise StartError(first_line(error)) from error
        self._log.info(
            "listening",
            grpc=self.address,
            metrics=f"http://{self._dialable(self.metrics_port)}/metrics",
            device=self._device.name,
            lanes=self._lane.threads,
            intra_op_threads=self._device.threads,
            frontends=settings.frontends,
        )

    async def load(self) -> list[str]:
        """Load every model, and report what serves.

        Returns:
            The names of the models that are READY.
        """
        try:
            await self._lifecycle.load_all()
        except Exception as error:  # noqa: BLE001 - a model's own failure does not get here
            self._monitor.supervisor.failed("loader", error, remedy="the process ends")
            self._monitor.supervisor.end("loader", "the models could not be loaded; the log has the cause")
        ready = [model.entry.name for model in self._repository if model.is_ready]
        self._tried_all = True
        self._set_serving(bool(ready))
        await self._front.agree()
        if ready:
            self._log.info("serving", models=ready)
        else:
            self._log.warning("no_model_ready", repository=str(self._settings.repository))
        return ready

    async def stop(self, cause: str = "") -> None:
        """Answer what was accepted, refuse what is new, and end within the grace period.

        Args:
            cause: a signal's name, or a reason, for the log.
        """
        self._grace.ends_s = time.monotonic() + self._settings.grace_s
        self._log.info("stopping", cause=cause, grace_s=self._settings.grace_s)
        self._is_stopping = True
        await self._monitor.expect_end()
        await self._front.settle()
        self._repository.drain()
        await self._front.stop(self._grace)
        self._batcher.close()
        idle = await asyncio.get_running_loop().run_in_executor(None, self._lane.stop, self._grace.left_s)
        self._stack.close()
        self._log.info("stopped", lane_idle=idle)

    def force_stop(self) -> None:
        """End the grace period of a stop now."""
        self._grace.forced.set()

    def healthy(self) -> str:
        """Return what is out of order, in one line; empty where nothing is. On any thread."""
        return self._monitor.faults.healthy()

    @property
    def address(self) -> str:
        """Return an address at which this machine reaches the gRPC services."""
        return self._dialable(self.grpc_port)

    def _open_metrics_port(self) -> None:
        """Open the port of the metrics.

        Raises:
            StartError: it is in use.
        """
        http = MetricsPort(
            self._front.exposed(self._metrics.registry),
            partial(ports.listen, self._settings.host),
            self._settings.metrics_port,
            healthy=self.healthy,
            ready=self._not_ready,
            log=self._log,
            on_failure=self._monitor.metrics_port_failed,
        )
        self._stack.callback(http.close)
        self._monitor.require("metrics_port", lambda: http.is_alive)
        self.metrics_port = http.port

    def _dialable(self, port: int) -> str:
        return ports.address_of(ports.dialable(self._settings.host), port)

    def _set_serving(self, is_serving: bool) -> None:
        self._is_serving = is_serving
        self._front.health.set_server(serving=is_serving)

    def _not_ready(self) -> str:
        """Return why health's "" is not SERVING, if it is not; runs on the metrics port's thread."""
        if self._is_stopping:
            return "the server is stopping"
        if not self._tried_all:
            return "models are being loaded"
        if not self._is_serving:
            return "no model is ready"
        return self._front.missing or self.healthy()

    def _on_state(self, name: str, state: "State.ValueType") -> None:
        self._front.health.set_model(name, state)
        if self._tried_all:
            self._set_serving(any(model.is_ready for model in self._repository))

    def _publish_fault(self, reason: str) -> None:
        self._front.health.set_fault(reason)

    def _on_gone(self, name: str) -> None:
        self._front.health.forget_model(name)

    def _log_failure(self, model: str, error: Exception) -> None:
        self._log.error("batch_failed", model=model, error=f"{type(error).__name__}: {error}")
