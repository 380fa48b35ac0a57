"""The classifier service: a request's way through decoding, batcher and ranking."""

import asyncio
import time
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from modelzoo.v1 import classifier_pb2
from server import deadlines
from server.errors import InvalidRequestError, ModelZooError
from server.inference import Priority
from server.models.model import ReadyModel
from server.models.registry import Models
from server.processing.decoding import Decoder
from server.processing.ranking import DEFAULT_TOP_K, EncodedLabels, off_the_loop, rank, require_labels
from server.processing.tracking import RequestTracker, TrackedRequest
from server.rpc import statuses, wire
from server.rpc.call import current_peer
from server.rpc.context import Methods
from server.rpc.handlers import Handlers, parser
from server.rpc.streams import Answers

_PRIORITIES = {
    classifier_pb2.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    classifier_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    classifier_pb2.PRIORITY_BULK: Priority.BULK,
}

_LABELS_ON_THE_LOOP = 10_000  # copied in 0.4 ms; more are copied by a thread

StreamRequest = classifier_pb2.ClassifyStreamRequest
StreamResponse = classifier_pb2.ClassifyStreamResponse
_RESPONSE = wire.tag(StreamResponse.RESPONSE_FIELD_NUMBER, wire.BYTES)
_TIMING = wire.tag(classifier_pb2.ClassifyResponse.TIMING_FIELD_NUMBER, wire.BYTES)
_INSIDE_REQUEST: wire.Inside = {classifier_pb2.ClassifyRequest.MODEL_FIELD_NUMBER: wire.TEXT}
_INSIDE_STREAM_REQUEST: wire.Inside = {
    StreamRequest.ID_FIELD_NUMBER: wire.TEXT,
    StreamRequest.REQUEST_FIELD_NUMBER: _INSIDE_REQUEST,
}
SERVICE = classifier_pb2.DESCRIPTOR.services_by_name["ClassifierService"].full_name


class Classifier:
    """Answers ``modelzoo.v1.ClassifierService``.

    Args:
        max_images: in one request.
    """

    def __init__(self, models: Models, tracker: RequestTracker, decoder: Decoder, max_images: int) -> None:
        self._models = models
        self._tracker = tracker
        self._decoder = decoder
        self._max_images = max_images
        self._encoded: WeakKeyDictionary[ReadyModel, _Encoded] = WeakKeyDictionary()

    def methods(self, handlers: Handlers) -> Methods:
        """Return the service's methods."""
        # Somewhat too many images are parsed and refused by name, far too many unseen.
        max_fields = 4 * self._max_images + 16
        parse = parser(classifier_pb2.ClassifyRequest, max_fields, _INSIDE_REQUEST)
        parse_streamed = parser(StreamRequest, max_fields, _INSIDE_STREAM_REQUEST)
        return {
            "Classify": handlers.unary(SERVICE, "Classify", parse, self.classify),
            "ClassifyStream": handlers.stream(
                SERVICE, "ClassifyStream", Answers(parse_streamed, self.classify_streamed, _failed)
            ),
            **handlers.simple(
                SERVICE,
                {
                    classifier_pb2.ListModelsRequest: self.list_models,
                    classifier_pb2.GetModelRequest: self.get_model,
                },
            ),
        }

    async def classify(self, request: classifier_pb2.ClassifyRequest, deadline_s: float | None) -> bytes:
        """Classify every image of the request, or none of them.

        Returns:
            A `ClassifyResponse`.

        Raises:
            ModelZooError: one of its subclasses.
        """
        with self._tracker.open(request.model, _version(request), deadline_s) as tracked:
            return await self._answer(tracked, request, deadline_s)

    async def classify_streamed(self, request: StreamRequest, deadline_s: float | None) -> bytes:
        """Classify every image of a request that came in a stream, or none of them.

        Returns:
            A `ClassifyStreamResponse`.

        Raises:
            ModelZooError: one of its subclasses.
        """
        if request.HasField("timeout_ms"):
            if request.timeout_ms < 1:
                raise InvalidRequestError("timeout_ms", f"{request.timeout_ms} is not above zero")
            deadline_s = deadlines.within(request.timeout_ms / 1000, deadline_s)
        response = await self.classify(request.request, deadline_s)
        return StreamResponse(id=request.id).SerializeToString() + _RESPONSE + wire.with_length(response)

    async def list_models(
        self, request: classifier_pb2.ListModelsRequest
    ) -> classifier_pb2.ListModelsResponse:
        """List every model on disk or in memory, whatever its state."""
        del request
        await self._models.refresh()
        return classifier_pb2.ListModelsResponse(models=[model.status for model in self._models])

    async def get_model(self, request: classifier_pb2.GetModelRequest) -> classifier_pb2.GetModelResponse:
        """Describe one model, whatever its state.

        Raises:
            ModelNotFoundError: there is none of that name or version.
        """
        model = self._models.get(request.name, _version(request))
        response = classifier_pb2.GetModelResponse(status=model.status, manifest=model.manifest)
        if len(model.labels) > _LABELS_ON_THE_LOOP:
            await asyncio.to_thread(response.labels.extend, model.labels)
        else:
            response.labels.extend(model.labels)
        return response

    async def _answer(
        self, tracked: TrackedRequest, request: classifier_pb2.ClassifyRequest, deadline_s: float | None
    ) -> bytes:
        model = tracked.model
        if not 1 <= len(request.images) <= self._max_images:
            raise InvalidRequestError("images", f"{len(request.images)} images, not 1 to {self._max_images}")
        top_k = request.top_k if request.HasField("top_k") else min(DEFAULT_TOP_K, len(model.labels))
        if not 1 <= top_k <= len(model.labels):
            raise InvalidRequestError("top_k", f"{top_k} labels, not 1 to {len(model.labels)}")
        require_labels("top_k", len(request.images), top_k)
        if request.priority not in _PRIORITIES:
            raise InvalidRequestError("priority", f"{request.priority} is no priority")
        decode_started_s = time.monotonic()
        rows = await self._decoder.decode(request.images, model.manifest)
        decode_s = 0.0 if isinstance(rows, np.ndarray) else time.monotonic() - decode_started_s
        tracked.decoded(decode_s)
        priority = _PRIORITIES[request.priority]
        answer = await model.submit(rows, deadline_s, priority=priority, peer=current_peer())
        tracked.inferred(answer)
        encoded = self._encoded.get(model)
        if encoded is None:
            encoded = self._encoded[model] = _Encoded.of(model)
        classifications = await off_the_loop(rank, answer.probabilities, encoded.labels, top_k)
        timing = classifier_pb2.Timing(
            decode_us=round(decode_s * 1e6),
            queue_us=round(answer.queue_s * 1e6),
            infer_us=round(answer.infer_s * 1e6),
            batch_size=answer.batch_size,
        )
        # The fields of a message may come in any order.
        return encoded.begin + _TIMING + wire.with_length(timing.SerializeToString()) + classifications


class _Encoded(NamedTuple):
    """What the answers of one model have in common, encoded once.

    Attributes:
        begin: the fields `model` and `version` of a `ClassifyResponse`.
    """

    begin: bytes
    labels: EncodedLabels

    @classmethod
    def of(cls, model: ReadyModel) -> "_Encoded":
        """Encode that of a model."""
        begin = classifier_pb2.ClassifyResponse(model=model.status.name, version=model.status.version)
        return cls(begin.SerializeToString(), EncodedLabels(model.labels))


def _failed(request: StreamRequest | None, error: ModelZooError) -> classifier_pb2.ClassifyStreamResponse:
    return classifier_pb2.ClassifyStreamResponse(
        id=request.id if request is not None else "", error=statuses.describe(error)
    )


def _version(request: classifier_pb2.ClassifyRequest | classifier_pb2.GetModelRequest) -> int | None:
    return request.version if request.HasField("version") else None
