"""The gRPC port and the services behind it: all of a server that needs no device.

It lives in the process of the engine, or in a front end; what it is given stands for the engine.
"""

import asyncio

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from structlog.typing import FilteringBoundLogger

from artifact import pictures
from server import classifier, health, open_inference
from server.accounts import Accounts
from server.administration import Administration, Changes
from server.classifier import Classifier
from server.config import Settings
from server.descriptions import Descriptions, Tell
from server.edge import Edge
from server.grace import Grace
from server.health import Health
from server.in_flight import InFlight
from server.metrics import Metrics
from server.models import Models
from server.open_inference import OpenInference
from server.ports import GenericOnly, address_of, connection_options
from server.processing.decoding import Decoder, Limits
from server.shared_memory import Regions

_MAX_CONCURRENT_RPCS = 4096  # the last fence: queue and decoders refuse earlier, and say more
# How long a stopping server still takes calls, to refuse them: gRPC may hold some that it has not handed
# over yet, and would cancel them without a word when it stops.
_REFUSING_S = 0.3


class Front:
    """The port and its services; `open` it, `stop` it.

    Args:
        models: that answer.
        changes: loads and unloads them.
        tell: asked for their statistics.

    Attributes:
        health: what the health service answers.
        in_flight: counts the requests that are being answered.
        decoder: of their pictures.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        models: Models,
        changes: Changes,
        tell: Tell,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._models = models
        self._changes = changes
        self._tell = tell
        self._log = log
        self._regions = Regions()
        self.health = Health(classifier.SERVICE, open_inference.SERVICE)
        self.in_flight = InFlight(settings.max_bytes_in_flight)
        self.decoder = Decoder(
            settings.decoder_threads,
            Limits(
                pictures.Limits(settings.max_image_pixels),
                settings.max_request_pixels,
                settings.max_decoding_pixels,
            ),
        )

    async def open(self, port: int, *, shared: bool = False) -> int:
        """Open the port.

        Args:
            port: 0 for whatever is free.
            shared: whether other processes may open it, too.

        Returns:
            The port.

        Raises:
            RuntimeError: it cannot be had; gRPC does not say why.
        """
        settings = self._settings
        self._grpc = grpc.aio.server(
            maximum_concurrent_rpcs=_MAX_CONCURRENT_RPCS,
            options=[
                *connection_options(shared=shared),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
            ],
        )
        edge = Edge(self._metrics, self._log, self.in_flight)
        accounts = Accounts(self._models, self._metrics)
        services = (self._classifier(accounts, edge), self._open_inference(accounts, edge))
        self._grpc.add_generic_rpc_handlers((*services, self.health.handlers()))
        names = (classifier.SERVICE, open_inference.SERVICE, health.SERVICE, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(names), GenericOnly(self._grpc)
        )
        given = self._grpc.add_insecure_port(address_of(settings.host, port))
        await self._grpc.start()
        return given

    async def stop(self, grace: Grace) -> None:
        """Answer what was accepted, refuse what is new, and close the port within the grace period.

        The models take no more requests by now.
        """
        self.health.drain()
        await grace.wait(asyncio.sleep(_REFUSING_S))
        await grace.wait(self.in_flight.idle.wait())
        await self.close(None)  # what is left is late, or a stream that only listens

    async def close(self, patience_s: float | None) -> None:
        """Close the port, and cancel the calls that are not answered by then."""
        await self._grpc.stop(patience_s)
        self.decoder.close()
        self._regions.unregister("")

    def _classifier(self, accounts: Accounts, edge: Edge) -> grpc.GenericRpcHandler:
        return Classifier(
            self._models, accounts, self.decoder, self._settings.max_images_per_request
        ).handlers(edge)

    def _open_inference(self, accounts: Accounts, edge: Edge) -> grpc.GenericRpcHandler:
        settings = self._settings
        extensions = ["classification", "model_configuration", "schedule_policy", "statistics"]
        if settings.allow_client_shm:
            extensions.append("system_shared_memory")
        if settings.allow_model_control:
            extensions.append("model_repository")
        return OpenInference(
            accounts,
            self.decoder,
            self._regions,
            self.in_flight,
            settings.max_images_per_request,
            max_content_bytes=settings.max_message_bytes,
            unavailable_when_full=settings.status_compat == "triton",
        ).handlers(
            edge,
            Descriptions(self._models, self.health, extensions, self._tell),
            Administration(
                self._models,
                self._changes,
                self._regions,
                allow_model_control=settings.allow_model_control,
                allow_client_shm=settings.allow_client_shm,
            ),
        )
