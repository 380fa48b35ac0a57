"""The gRPC port and the services behind it: all of a server that needs no device.

It lives in the process of the engine, or in a front end; what it is given stands for the engine.
"""

import asyncio
import contextlib
import resource
from functools import partial

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from artifact import pictures
from server.config import Settings
from server.liveness.supervision import Supervisor
from server.models.registry import ModelControl, Models, ModelStatistics
from server.observability.metrics import Metrics
from server.ports import address_of
from server.processing.decoding import Decoder, Limits
from server.processing.tracking import RequestTracker
from server.rpc.calls import Calls
from server.rpc.connections import Sockets
from server.rpc.guard import Guard
from server.rpc.handlers import Handlers
from server.rpc.in_flight import InFlight
from server.rpc.limits import Limits as CallLimits
from server.rpc.listener import QUEUES, Listener, Method
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

_CONNECTION_OPTIONS = (
    # Of a call that is not accepted yet, gRPC reads no more than 64 KiB; it would measure the connection, and
    # read megabytes. A message of any size takes one round trip more.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),  # connections that never say a word
    ("grpc.max_connection_idle_ms", 300_000),  # and those that say no more
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Of pings that come too often, gRPC would note each in the error that closes the connection once what is
    # written to it is read: 3,400 pings, 110 kB, are half a second of a core.
    ("grpc.http2.max_ping_strikes", 0),
)
_CONNECTIONS_PER_QUEUE = 128  # at the least: the kernel does not spread them evenly
# That gRPC holds until they are accepted, 15 kB each; beyond, it rejects some of any peer.
_PENDING_CALLS = 16_384
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
        self._queues = max(1, min(QUEUES, self._max_connections // _CONNECTIONS_PER_QUEUE))
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
        self._listener = Listener(
            address_of(settings.host, port),
            self._options(),
            self._methods(handlers),
            handlers.unknown(),
            self._queues,
        )
        self._sockets = Sockets(port)
        self._watch = partial(Guard(self.calls, log).watch, self._sockets)

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
        await self._listener.open()
        self._supervisor.supervise("accept_loop", self._listener.accept, repair=self._listener.reopen)
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
        await self._listener.close(patience_s)
        self.decoder.close()
        self._regions.unregister("")

    def _options(self) -> list[tuple[str, int]]:
        """Return gRPC's options for what the connections of one queue may cost."""
        settings = self._settings
        # gRPC's own limits reject without a word of ours, so ours come first. Streams that are reset count
        # until they are accepted: a queue has room for all of two connections, and for others beside them.
        most_streams = max(2048, 2 * settings.max_calls_per_connection)
        pending_calls = max(2 * most_streams, _PENDING_CALLS // self._queues)
        return [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", self._max_message_bytes),
            # Identity alone, or with deflate and gzip: what is compressed is counted when it no longer is.
            ("grpc.compression_enabled_algorithms_bitset", 0b111 if settings.accept_compressed else 0b1),
            ("grpc.max_concurrent_streams", most_streams),
            ("grpc.server.max_pending_requests", pending_calls),
            ("grpc.server.max_pending_requests_hard_limit", 3 * pending_calls // 2),
            ("grpc.max_allowed_incoming_connections", self._max_connections // self._queues),
            ("grpc.max_connection_age_ms", int(1000 * settings.max_connection_age_s)),
            ("grpc.max_connection_age_grace_ms", int(1000 * settings.max_connection_age_grace_s)),
            *_CONNECTION_OPTIONS,
        ]

    def _methods(self, handlers: Handlers) -> dict[str, Method]:
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

    def _open_inference(self, handlers: Handlers) -> dict[str, Method]:
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


async def _nothing() -> None:
    """Repair what needs no more than a new beginning."""


def _descriptors() -> int:
    """Allow this process as many files as it may have, a connection each; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
