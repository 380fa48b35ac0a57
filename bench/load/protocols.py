"""How each protocol puts requests into bytes, and how it answers: what a load needs, and no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from client.channels import open_channel
from client.client import Picture, image
from client.errors import client_error
from modelzoo.v1 import classifier_pb2, open_inference_pb2, open_inference_pb2_grpc

OK = grpc.StatusCode.OK.name
UNREADABLE = "unreadable"  # stands where a status stands, for an answer that is none

_METADATA_TIMEOUT_S = 30.0
_CLASSIFIER = "modelzoo.v1.ClassifierService"
_OPEN_INFERENCE = "inference.GRPCInferenceService"


class Answer(NamedTuple):
    """What came back for a request.

    Attributes:
        status: the name of gRPC's status.
        labels: the index of every image's most probable label; empty unless the status is OK.
        batch_size: the largest batch that carried one of its images; 0 where it is not stated.
        message: the server's reason why there are no labels.
        stream_ended: whether the stream that the request took has ended, and takes no more.
    """

    status: str
    labels: Sequence[int] = ()
    batch_size: int = 0
    message: str = ""
    stream_ended: bool = False


class WireProtocol(Protocol):
    """A protocol's messages about one model. A load pickles it, to run in another process."""

    @property
    def method(self) -> str:
        """Return the path of the call that answers one request."""

    @property
    def stream_method(self) -> str:
        """Return the path of the call that carries many."""

    def encode(self, pictures: Sequence[Picture]) -> bytes:
        """Build a request.

        Raises:
            TypeError: a picture that cannot be sent this way.
        """

    def answer(self, body: bytes) -> Answer:
        """Read the answer to a request."""

    def streamed(self, body: bytes, timeout_s: float | None) -> bytes:
        """Make a stream's message of a request; its number is still missing."""

    def numbered(self, number: int, message: bytes) -> bytes:
        """Put the number on a stream's message."""

    def streamed_answer(self, message: bytes) -> tuple[int | None, Answer]:
        """Read a stream's message: the request's number, None where it has none; its answer."""


@dataclass(frozen=True)
class Classify:
    """The classifier service of this project."""

    model: str

    method: ClassVar = f"/{_CLASSIFIER}/Classify"
    stream_method: ClassVar = f"/{_CLASSIFIER}/ClassifyStream"

    def encode(self, pictures: Sequence[Picture]) -> bytes:
        """See `WireProtocol`."""
        images = [image(picture) for picture in pictures]
        return classifier_pb2.ClassifyRequest(model=self.model, images=images, top_k=1).SerializeToString()

    def answer(self, body: bytes) -> Answer:
        """See `WireProtocol`."""
        try:
            return _classified(classifier_pb2.ClassifyResponse.FromString(body))
        except (DecodeError, IndexError):
            return Answer(UNREADABLE)

    def streamed(self, body: bytes, timeout_s: float | None) -> bytes:
        """See `WireProtocol`."""
        return classifier_pb2.ClassifyStreamRequest(
            request=classifier_pb2.ClassifyRequest.FromString(body),
            timeout_ms=None if timeout_s is None else max(1, round(timeout_s * 1e3)),
        ).SerializeToString()

    def numbered(self, number: int, message: bytes) -> bytes:
        """See `WireProtocol`."""
        return _text_field(1, number) + message

    def streamed_answer(self, message: bytes) -> tuple[int | None, Answer]:
        """See `WireProtocol`."""
        try:
            answer = classifier_pb2.ClassifyStreamResponse.FromString(message)
            if answer.WhichOneof("outcome") == "error":
                status = code_pb2.Code.Name(answer.error.code)
                return _number(answer.id), Answer(status, message=answer.error.message)
            return _number(answer.id), _classified(answer.response)
        except (DecodeError, IndexError, ValueError):
            return None, Answer(UNREADABLE)


@dataclass(frozen=True)
class Infer:
    """The Open Inference Protocol, with uint8 pixels in and a probability per label out.

    Attributes:
        input_name: of the one tensor that goes in.
        output_name: of the one that is asked for.
    """

    model: str
    input_name: str
    output_name: str

    method: ClassVar = f"/{_OPEN_INFERENCE}/ModelInfer"
    stream_method: ClassVar = f"/{_OPEN_INFERENCE}/ModelStreamInfer"

    def encode(self, pictures: Sequence[Picture]) -> bytes:
        """See `WireProtocol`."""
        arrays = [picture for picture in pictures if isinstance(picture, np.ndarray)]
        if len(arrays) < len(pictures):
            raise TypeError("the Open Inference Protocol is asked with pixels, not with files")
        images = np.stack(arrays)  # [N, H, W, C]
        request = open_inference_pb2.ModelInferRequest(
            model_name=self.model, raw_input_contents=[images.tobytes()]
        )
        request.inputs.add(name=self.input_name, datatype="UINT8", shape=images.shape)
        request.outputs.add(name=self.output_name)
        return request.SerializeToString()

    def answer(self, body: bytes) -> Answer:
        """See `WireProtocol`."""
        try:
            return self._inferred(open_inference_pb2.ModelInferResponse.FromString(body))
        except (DecodeError, IndexError, ValueError):
            return Answer(UNREADABLE)

    def streamed(self, body: bytes, timeout_s: float | None) -> bytes:
        """See `WireProtocol`."""
        if timeout_s is None:
            return body
        request = open_inference_pb2.ModelInferRequest.FromString(body)
        request.parameters["timeout"].int64_param = round(timeout_s * 1e6)  # microseconds, as Triton has it
        return request.SerializeToString()

    def numbered(self, number: int, message: bytes) -> bytes:
        """See `WireProtocol`."""
        return _text_field(3, number) + message

    def streamed_answer(self, message: bytes) -> tuple[int | None, Answer]:
        """See `WireProtocol`."""
        try:
            answer = open_inference_pb2.ModelStreamInferResponse.FromString(message)
            number = _number(answer.infer_response.id)
            if answer.error_message:
                # The protocol sends text, no status.
                return number, Answer(grpc.StatusCode.UNKNOWN.name, message=answer.error_message)
            return number, self._inferred(answer.infer_response)
        except (DecodeError, IndexError, ValueError):
            return None, Answer(UNREADABLE)

    def _inferred(self, response: open_inference_pb2.ModelInferResponse) -> Answer:
        index = [output.name for output in response.outputs].index(self.output_name)
        output = response.outputs[index]
        values = (
            np.frombuffer(response.raw_output_contents[index], np.float32)
            if response.raw_output_contents
            else np.asarray(output.contents.fp32_contents, np.float32)
        )
        return Answer(OK, values.reshape(output.shape).argmax(axis=1).tolist())


def infer(address: str, model: str, picture: Picture) -> Infer:
    """Ask a server what its model's tensors are called.

    Args:
        picture: one of those that will be asked.

    Raises:
        ClientError: the server cannot be reached, or has no such model.
        ValueError: the model does not take such pictures as uint8 ``[N, H, W, C]``, or gives no float32.
    """
    request = open_inference_pb2.ModelMetadataRequest(name=model)
    with open_channel(address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            described = stub.ModelMetadata(request, timeout=_METADATA_TIMEOUT_S)
        except grpc.RpcError as error:
            raise client_error(error) from error
    taken = [f"{tensor.datatype} {list(tensor.shape)[-3:]}" for tensor in described.inputs]
    if not isinstance(picture, np.ndarray) or taken != [f"UINT8 {list(picture.shape)}"]:
        raise ValueError(f"{model} takes {', '.join(taken)}, not UINT8 pixels of the artifact's shape")
    outputs = [tensor.name for tensor in described.outputs if tensor.datatype == "FP32"]
    if not outputs:
        raise ValueError(f"{model} gives no FP32 tensor")
    return Infer(model, described.inputs[0].name, outputs[0])


def _classified(response: classifier_pb2.ClassifyResponse) -> Answer:
    labels = [classification.labels[0].label_index for classification in response.classifications]
    return Answer(OK, labels, response.timing.batch_size)


def _text_field(field: int, number: int) -> bytes:
    """Write a number as a field of text; it may stand before a message's other fields."""
    text = b"%d" % number
    return bytes((field << 3 | 2, len(text))) + text


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
