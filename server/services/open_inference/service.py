"""The Open Inference Protocol: a request's way from its tensors through decoder and batcher to tensors."""

import asyncio
import time
from contextlib import ExitStack
from functools import partial

from artifact.layout import OUTPUT
from modelzoo.v1 import open_inference_pb2
from server import deadlines
from server.errors import BusyError, ModelZooError, OverloadedError
from server.inference import Answer, Priority, Rows
from server.processing.decoding import Decoder
from server.processing.ranking import off_the_loop, rank_as_texts
from server.processing.tracking import RequestTracker, TrackedRequest
from server.rpc import wire
from server.rpc.call import current_peer
from server.rpc.context import Methods
from server.rpc.handlers import Handlers
from server.rpc.in_flight import InFlight
from server.rpc.streams import Answers
from server.services.open_inference import parameters, tensors
from server.services.open_inference.metadata import MetadataService, version_of
from server.services.open_inference.model_control import ModelControlService
from server.services.open_inference.request import InferRequest, read_infer_request
from server.services.open_inference.shared_memory import Regions
from server.services.open_inference.tensors import RequestInput, RequestOutput

Response = open_inference_pb2.ModelInferResponse
StreamResponse = open_inference_pb2.ModelStreamInferResponse

_RESPONSE = wire.tag(StreamResponse.INFER_RESPONSE_FIELD_NUMBER, wire.BYTES)
SERVICE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_TYPED_ON_THE_LOOP = 1 << 17  # pixels as numbers, taken in some 2 ms; more are taken by a thread
_ENDING_HEADER = "triton_grpc_error"  # with `true`, a stream ends with the first refusal


class OpenInference:
    """Answers ``inference.GRPCInferenceService``.

    Args:
        max_images: in one request.
        max_content_bytes: of files that a request has in shared memory; as much as a message may have.
        unavailable_when_full: a full queue is UNAVAILABLE, as Triton has it, not RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        tracker: RequestTracker,
        decoder: Decoder,
        regions: Regions,
        in_flight: InFlight,
        max_images: int,
        *,
        max_content_bytes: int,
        unavailable_when_full: bool,
    ) -> None:
        self._tracker = tracker
        self._decoder = decoder
        self._regions = regions
        self._in_flight = in_flight
        self._max_images = max_images
        self._max_content_bytes = max_content_bytes
        self._unavailable_when_full = unavailable_when_full

    def methods(
        self, handlers: Handlers, descriptions: MetadataService, administration: ModelControlService
    ) -> Methods:
        """Return the methods of the whole service."""
        # Somewhat too many images are parsed and refused by name, far too many unseen.
        parse = partial(read_infer_request, max_fields=4 * self._max_images + 64)
        return {
            "ModelInfer": handlers.unary(SERVICE, "ModelInfer", parse, self.infer),
            "ModelStreamInfer": handlers.stream(
                SERVICE, "ModelStreamInfer", Answers(parse, self.infer_streamed, _failed, _ENDING_HEADER)
            ),
            **descriptions.methods(handlers, SERVICE),
            **administration.methods(handlers, SERVICE),
        }

    async def infer(self, request: InferRequest, deadline_s: float | None) -> bytes:
        """Answer every image of the request, or none of them, with a `ModelInferResponse`.

        Raises:
            ModelZooError: one of its subclasses.
        """
        message = request.message
        version = version_of("model_version", message.model_version)
        with self._tracker.open(message.model_name, version, deadline_s) as tracked, ExitStack() as stack:
            model = tracked.model
            given = tensors.request_input(request, model.manifest.input, self._max_images)
            asked = tensors.request_output(request, given.count, len(model.labels))
            priority = parameters.priority(message.parameters)
            timeout_s = parameters.timeout_s(message.parameters)
            if timeout_s is not None:
                deadline_s = deadlines.within(timeout_s, deadline_s)
            if asked.place is not None:
                self._regions.require(asked.place)
            content = None
            if given.place is not None:
                self._regions.require(given.place)
                tensors.require_size(given, model.manifest.input, self._max_content_bytes)
                stack.enter_context(self._in_flight.holding(given.place.byte_size))
                content = await self._regions.read(given.place)
            rows = await self._rows(tracked, given, content)
            del content  # its files are decoded; pixels are views of it
            answer = await self._submit(tracked, rows, deadline_s, priority)
            response = await self._response(tracked, asked, answer)
            response.id = message.id
            return response.SerializeToString()

    async def infer_streamed(self, request: InferRequest, deadline_s: float | None) -> bytes:
        """Answer a request that came in a stream, with a `ModelStreamInferResponse`.

        Raises:
            ModelZooError: one of its subclasses.
        """
        return _RESPONSE + wire.with_length(await self.infer(request, deadline_s))

    async def _rows(self, tracked: TrackedRequest, given: RequestInput, content: memoryview | None) -> Rows:
        """Return the pixels of every image, uint8 ``[H, W, C]``."""
        described = tracked.model.manifest
        if given.form == tensors.PIXELS:
            tracked.decoded(0.0)
            if tensors.typed_size(given, content) > _TYPED_ON_THE_LOOP:
                return await asyncio.to_thread(tensors.pixels, given, content, described.input)
            return tensors.pixels(given, content, described.input)
        started_s = time.monotonic()
        rows = await self._decoder.decode(tensors.files(given, content), described)
        tracked.decoded(time.monotonic() - started_s)
        return rows

    async def _submit(
        self, tracked: TrackedRequest, rows: Rows, deadline_s: float | None, priority: Priority
    ) -> Answer:
        try:
            answer = await tracked.model.submit(rows, deadline_s, priority=priority, peer=current_peer())
        except OverloadedError as error:
            if self._unavailable_when_full:
                raise BusyError(str(error), error.retry_delay_s) from error
            raise
        tracked.inferred(answer)
        return answer

    async def _response(self, tracked: TrackedRequest, asked: RequestOutput, answer: Answer) -> Response:
        """Put the answer into the form that was asked for, or into shared memory.

        Raises:
            InvalidRequestError: the shared memory is gone.
        """
        model, probabilities = tracked.model, answer.probabilities
        response = Response(model_name=model.status.name, model_version=str(model.status.version))
        output = response.outputs.add(name=OUTPUT)
        if asked.label_count is not None:
            output.datatype = tensors.FILES
            output.shape[:] = (len(probabilities), asked.label_count)
            raw = await off_the_loop(rank_as_texts, probabilities, model.labels, asked.label_count)
        else:
            output.datatype = tensors.PROBABILITIES
            output.shape[:] = probabilities.shape
            raw = probabilities.astype("<f4", copy=False).tobytes()
        if asked.place is not None:
            await self._regions.write(asked.place, raw)
            parameters.set_place(output.parameters, asked.place, len(raw))
            raw = b""
        response.raw_output_contents.append(raw)
        return response


def _failed(request: InferRequest | None, error: ModelZooError) -> StreamResponse:
    return StreamResponse(
        error_message=str(error),
        infer_response=Response(id=request.message.id if request is not None else ""),
    )
