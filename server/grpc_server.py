"""The gRPC port and the services behind it: all of a server that needs no device.

It lives in the process of the engine, or in a front end; what it is given stands for the engine.
"""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from artifact import pictures
from server.config import Settings
from server.errors import StartError
from server.liveness.supervision import Supervisor
from server.models.registry import ModelControl, Models, ModelStatistics
from server.observability.metrics import Metrics
from server.ports import address_of, listen_shared
from server.processing.decoding import Decoder, Limits
from server.processing.tracking import RequestTracker
from server.rpc.calls import Calls
from server.rpc.connections import Sockets
from server.rpc.context import Method, Methods
from server.rpc.guard import Guard
from server.rpc.handlers import Handlers
from server.rpc.in_flight import InFlight
from server.rpc.limits import Limits as CallLimits
from server.rpc.transports.grpc_aio import GrpcAio
from server.rpc.transports.transport import Bounds, Transport
from server.services import classifier, health, reflection
from server.services.classifier import Classifier
from server.services.health import Health
from server.services.open_inference import service as open_inference
from server.services.open_inference.metadata import MetadataService
from server.services.open_inference.model_control import ModelControlService
from server.services.open_inference.service import OpenInference
from server.services.open_inference.shared_memory import Regions
from server.services.reflection import Reflection
from server.shutdown import GracePeriod

_COMPRESSED_MESSAGE_BYTES = 4 << 20  # gRPC's own default limit
_OTHER_DESCRIPTORS = 256  # files, threads' pipes, front ends, metrics
# How long a stopping server still takes the calls of connections, to refuse them: gRPC may hold some that it
# has not handed over yet, and would cancel them without a word when it stops.
_REFUSING_S = 0.3


class GrpcServer:
    """The port and its services; `open` it, `stop` it.

    Args:
        port: to listen on; held by the engine, where other processes do so too.
        models: that answer.
        control: loads and unloads them.
        statistics: gives theirs.
        supervisor: repairs what keeps the port open and in bounds.

    Attributes:
        health: what the health service answers.
        in_flight: counts the requests that are being answered.
        calls: that are open.
        decoder: of their pictures.
    """

    def __init__(
        self,
        settings: Settings,
        port: int,
        metrics: Metrics,
        models: Models,
        control: ModelControl,
        statistics: ModelStatistics,
        log: FilteringBoundLogger,
        supervisor: Supervisor,
    ) -> None:
        self._settings = settings
        self._models = models
        self._control = control
        self._statistics = statistics
        self._supervisor = supervisor
        self._regions = Regions()
        self.health = Health(classifier.SERVICE, open_inference.SERVICE)
        self._tracker = RequestTracker(models, metrics)
        max_bytes = settings.max_bytes_in_flight // max(1, settings.frontends)
        self._max_message_bytes = settings.max_message_bytes
        max_calls = settings.max_concurrent_calls
        if settings.accept_compressed:
            # A message is inflated before it can be counted, so all at once must fit.
            self._max_message_bytes = min(self._max_message_bytes, _COMPRESSED_MESSAGE_BYTES)
            max_calls = max(1, min(max_calls, max_bytes // self._max_message_bytes))
        self._max_connections = min(settings.max_connections, _descriptors() - _OTHER_DESCRIPTORS)
        self.in_flight = InFlight(max(max_bytes, settings.max_message_bytes))
        self.calls = Calls(
            CallLimits(
                max_calls,
                min(settings.max_calls_per_connection, max_calls),
                max(settings.max_bytes_per_connection // max(1, settings.frontends), self._max_message_bytes),
                settings.max_idle_s,
                self._max_connections,
            ),
            self.in_flight,
            log,
            metrics.peer_limited,
        )
        self.decoder = Decoder(
            settings.decoder_threads,
            Limits(
                pictures.Limits(settings.max_image_pixels),
                settings.max_request_pixels,
                settings.max_decoding_pixels,
            ),
        )

        handlers = Handlers(metrics, log, self.calls)
        self._pacer = handlers.pacer
        bounds = bounds_of(settings, self._max_message_bytes, self._max_connections)
        methods, unknown = self._methods(handlers), handlers.unknown()
        self._transport: Transport
        if settings.transport == "h2corn":
            self._transport = _h2corn(partial(listen_shared, settings.host, port), bounds, methods, unknown)
        else:
            self._transport = GrpcAio(address_of(settings.host, port), bounds, methods, unknown)
        self._sockets = Sockets(port)
        guard = Guard(self.calls, log, counts_unread=self._transport.holds_answers)
        self._watch = partial(guard.watch, self._sockets)

    @property
    def missing(self) -> str:
        """Why no client can be answered; nothing is missing here."""
        return ""

    def exposed(self, registry: CollectorRegistry) -> CollectorRegistry:
        """Return what the metrics port shows: all is counted in this process."""
        return registry

    async def open(self) -> None:
        """Open the port.

        Raises:
            RuntimeError: it cannot be had; gRPC does not say why.
        """
        await self._transport.open()
        self._supervisor.supervise("accept_loop", self._transport.accept, repair=self._transport.reopen)
        self._supervisor.supervise("guard", self._watch, repair=_nothing)

    async def agree(self) -> None:
        """Do nothing: what answers sees the models themselves."""

    async def settle(self) -> None:
        """Let every request that has come go on to its model, before the models take no more."""
        await self._pacer.flush()

    async def stop(self, grace: GracePeriod) -> None:
        """Answer what was accepted, refuse what is new, and close the port within the grace period.

        The models take no more requests by now.
        """
        # The supervisor has ended its own by now; bounds hold while accepted calls are answered, too.
        watching = asyncio.get_running_loop().create_task(self._watch())
        self.health.drain()
        if self._sockets.find():
            await grace.wait(asyncio.sleep(_REFUSING_S))
        await grace.wait(self.in_flight.idle.wait())
        watching.cancel()
        await self.close(None)  # what is left is late, or a stream that only listens

    async def close(self, patience_s: float | None) -> None:
        """Close the port, and cancel the calls that are not answered by then."""
        await self._transport.close(patience_s)
        self.decoder.close()
        self._regions.unregister("")

    def _methods(self, handlers: Handlers) -> Methods:
        """Return the handlers of all methods, by their paths."""
        services = {
            classifier.SERVICE: self._classifier().methods(handlers),
            open_inference.SERVICE: self._open_inference(handlers),
            health.SERVICE: self.health.methods(handlers),
            reflection.SERVICE: Reflection(
                classifier.SERVICE, open_inference.SERVICE, health.SERVICE
            ).methods(handlers),
        }
        return {
            f"/{service}/{name}": method
            for service, named in services.items()
            for name, method in named.items()
        }

    def _classifier(self) -> Classifier:
        return Classifier(self._models, self._tracker, self.decoder, self._settings.max_images_per_request)

    def _open_inference(self, handlers: Handlers) -> Methods:
        settings = self._settings
        extensions = ["classification", "model_configuration", "schedule_policy", "statistics"]
        if settings.allow_client_shm:
            extensions.append("system_shared_memory")
        if settings.allow_model_control:
            extensions.append("model_repository")
        return OpenInference(
            self._tracker,
            self.decoder,
            self._regions,
            self.in_flight,
            settings.max_images_per_request,
            max_content_bytes=settings.max_message_bytes,
            unavailable_when_full=settings.status_compat == "triton",
        ).methods(
            handlers,
            MetadataService(self._models, self.health, extensions, self._statistics),
            ModelControlService(
                self._models,
                self._control,
                self._regions,
                allow_model_control=settings.allow_model_control,
                allow_client_shm=settings.allow_client_shm,
            ),
        )


def bounds_of(settings: Settings, max_message_bytes: int, max_connections: int) -> Bounds:
    """Return what a transport is told of a server's settings, two of which may have to be smaller."""
    return Bounds(
        max_message_bytes,
        settings.accept_compressed,
        max_connections,
        settings.max_calls_per_connection,
        settings.max_connection_age_s,
        settings.max_connection_age_grace_s,
        settings.max_idle_s,
    )


def _h2corn(
    listen: Callable[[], socket.socket], bounds: Bounds, methods: Methods, unknown: Method
) -> Transport:
    """Make a transport that an extra brings.

    Raises:
        StartError: it is not installed.
    """
    try:
        from server.rpc.transports.h2corn import H2corn
    except ImportError as error:
        raise StartError(
            f"transport h2corn is not installed ({error}); pip install 'modelzoo[h2corn]'"
        ) from error
    return H2corn(listen, bounds, methods, unknown)


async def _nothing() -> None:
    """Repair what needs no more than a new beginning."""


def _descriptors() -> int:
    """Allow this process as many files as it may have, a connection each; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
