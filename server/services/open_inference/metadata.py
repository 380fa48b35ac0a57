"""The metadata of the server and of its models, as the Open Inference Protocol has them."""

import importlib.metadata
from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.message import Message

from modelzoo.v1 import open_inference_pb2 as messages
from server.errors import InvalidRequestError, ModelNotFoundError
from server.models.registry import Models, ModelStatistics
from server.rpc.context import Methods
from server.rpc.handlers import Handlers
from server.services.health import SERVER, Health
from server.services.open_inference import model_config

NAME = "modelzoo"  # of the program, and of the package that says its version
_LONGEST_VERSION = 9  # digits, as of an artifact's


Probes = dict[type[Message], Callable[..., Awaitable[Message]]]


class MetadataService:
    """Answers those calls of ``inference.GRPCInferenceService``.

    Args:
        extensions: of the protocol, that work with this server's settings.
        statistics: gives those of models.
    """

    def __init__(
        self, models: Models, health: Health, extensions: Sequence[str], statistics: ModelStatistics
    ) -> None:
        self._models = models
        self._statistics = statistics
        self._health = health
        self._metadata = messages.ServerMetadataResponse(
            name=NAME, version=importlib.metadata.version(NAME), extensions=extensions
        )

    def methods(self, handlers: Handlers, service: str) -> Methods:
        """Return the methods of these calls; readiness has the pool of the health checks."""
        probes: Probes = {
            messages.ServerLiveRequest: self.server_live,
            messages.ServerReadyRequest: self.server_ready,
            messages.ModelReadyRequest: self.model_ready,
        }
        return handlers.simple(service, probes, handlers.calls.probes) | handlers.simple(
            service,
            {
                messages.ServerMetadataRequest: self.server_metadata,
                messages.ModelMetadataRequest: self.model_metadata,
                messages.ModelConfigRequest: self.model_config,
                messages.ModelStatisticsRequest: self.model_statistics,
            },
        )

    async def server_live(self, request: messages.ServerLiveRequest) -> messages.ServerLiveResponse:
        """Say yes."""
        del request
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: messages.ServerReadyRequest) -> messages.ServerReadyResponse:
        """Say what the health service says."""
        del request
        return messages.ServerReadyResponse(ready=self._health.is_serving(SERVER))

    async def model_ready(self, request: messages.ModelReadyRequest) -> messages.ModelReadyResponse:
        """Return whether a model serves; one that is not there does not.

        Raises:
            InvalidRequestError: the version is no number.
        """
        try:
            model = self._models.get(request.name, version_of("version", request.version))
        except ModelNotFoundError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=model.is_ready)

    async def server_metadata(
        self, request: messages.ServerMetadataRequest
    ) -> messages.ServerMetadataResponse:
        """Describe the server."""
        del request
        return self._metadata

    async def model_metadata(self, request: messages.ModelMetadataRequest) -> messages.ModelMetadataResponse:
        """Describe a model's tensors.

        Raises:
            ModelZooError: there is no such model, or it does not serve.
        """
        return model_config.metadata(self._models.ready(request.name, version_of("version", request.version)))

    async def model_config(self, request: messages.ModelConfigRequest) -> messages.ModelConfigResponse:
        """Describe how a model is served.

        Raises:
            ModelZooError: there is no such model, or it does not serve.
        """
        model = self._models.ready(request.name, version_of("version", request.version))
        return messages.ModelConfigResponse(config=model_config.config(model))

    async def model_statistics(
        self, request: messages.ModelStatisticsRequest
    ) -> messages.ModelStatisticsResponse:
        """Return what a model has done, or every one that serves.

        Raises:
            ModelZooError: there is no such model, or it does not serve.
        """
        version = version_of("version", request.version)
        if request.name:
            models = [self._models.ready(request.name, version)]
        else:
            models = [model.ready() for model in self._models if model.is_ready]
        return messages.ModelStatisticsResponse(model_stats=await self._statistics(models))


def version_of(field: str, text: str) -> int | None:
    """Read a version; None where it is empty.

    Args:
        field: of the request, for the refusal.

    Raises:
        InvalidRequestError: it is no number, or one that no artifact has.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_VERSION):
        raise InvalidRequestError(field, f"{text[:_LONGEST_VERSION]!r} is no version, which is a number")
    return int(text)
