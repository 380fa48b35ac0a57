"""A blocking client: pictures in, labels out.

Encoded pictures are sent as they are and arrays as raw pixels; nothing is preprocessed here, because the
artifact on the server knows how.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.channels import open_channel
from client.errors import ClientError, client_error, malformed, refusal
from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc

if TYPE_CHECKING:  # only a caller with arrays needs it, and has it; a command that sends files starts sooner
    import numpy as np
    import numpy.typing as npt

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
_MAX_MESSAGE_BYTES = 256 << 20  # answers are small; this only must not be the limit that is met first

Picture: TypeAlias = "bytes | npt.NDArray[np.uint8]"
Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True)
class Label:
    """A label of a picture.

    Attributes:
        text: the label.
        index: its position in the model's labels, from 0.
        probability: how sure the model is, 0 to 1.
    """

    text: str
    index: int
    probability: float


class Client:
    """A connection to a server, to be shared by threads and closed after use.

    Args:
        address: ``host:port``.
        timeout_s: how long a call may take, unless it says otherwise.

    Raises:
        ValueError: the address is not one.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._channel = open_channel(
            address,
            [
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                # A channel of its own connection: two clients of one process do not share a socket.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._classifier = classifier_pb2_grpc.ClassifierServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def classify(
        self,
        model: str,
        pictures: Sequence[Picture],
        top_k: int | None = None,
        version: int | None = None,
        timeout_s: float | None = None,
        *,
        bulk: bool = False,
    ) -> list[list[Label]]:
        """Classify pictures.

        Args:
            model: name of the model.
            pictures: JPEG, PNG or WebP files, or uint8 arrays ``[H, W, C]`` of the model's own shape.
            top_k: labels per picture; None leaves it to the server (5).
            version: None for the one that serves.
            timeout_s: None for the client's own.
            bulk: whether the answer is not waited for, so that other requests may run first.

        Returns:
            For every picture its labels, most probable first.

        Raises:
            ClientError: the server refused the request, or cannot be reached.
            TypeError: a picture that is neither bytes nor a uint8 array ``[H, W, C]``.
        """
        response = self.classify_raw(model, pictures, top_k, version, timeout_s, bulk=bulk)
        return _labels(response, len(pictures))

    def classify_raw(
        self,
        model: str,
        pictures: Sequence[Picture],
        top_k: int | None = None,
        version: int | None = None,
        timeout_s: float | None = None,
        *,
        bulk: bool = False,
    ) -> classifier_pb2.ClassifyResponse:
        """Classify pictures as `classify` does, and give the whole response, timing included.

        Raises:
            ClientError: the server refused the request, or cannot be reached.
            TypeError: a picture that is neither bytes nor a uint8 array ``[H, W, C]``.
        """
        request = classifier_pb2.ClassifyRequest(
            model=model,
            images=[image(picture) for picture in pictures],
            top_k=top_k,
            version=version,
            priority=classifier_pb2.PRIORITY_BULK if bulk else classifier_pb2.PRIORITY_INTERACTIVE,
        )
        return self._call(self._classifier.Classify, request, timeout_s)

    def classify_stream(
        self, model: str, pictures: Iterable[Picture], top_k: int | None = None
    ) -> Iterator[tuple[int, list[Label] | ClientError]]:
        """Classify pictures one by one over a call that stays open, which costs a third of as many calls.

        The pictures are sent from another thread, ahead of the answers. A caller that stops iterating ends
        the call, and pictures are taken no more.

        Yields:
            The position of a picture and its labels, most probable first, or why it has none; in the order
            in which the answers come.

        Raises:
            ClientError: the stream ended before every picture had its answer; `retry_delay_s` is when to
                try again, where the server names a time.
            BaseException: whatever ``pictures`` raises, or TypeError for one that `classify` would not take.
        """
        failures: list[BaseException] = []
        unanswered: set[str] = set()
        all_sent = threading.Event()

        def requests() -> Iterator[classifier_pb2.ClassifyStreamRequest]:
            try:
                for index, picture in enumerate(pictures):
                    request = classifier_pb2.ClassifyRequest(
                        model=model, images=[image(picture)], top_k=top_k
                    )
                    unanswered.add(str(index))
                    yield classifier_pb2.ClassifyStreamRequest(id=str(index), request=request)
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - for the caller; gRPC's thread would die of it unseen
                failures.append(error)
            all_sent.set()

        call = self._classifier.ClassifyStream(requests())
        try:
            for answer in call:
                if answer.id not in unanswered:
                    raise malformed(f"an answer to picture {answer.id!r}, which waits for none")
                unanswered.remove(answer.id)
                refused = answer.WhichOneof("outcome") == "error"
                yield int(answer.id), refusal(answer.error) if refused else _labels(answer.response, 1)[0]
        except grpc.RpcError as error:
            raise client_error(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]
        if unanswered or not all_sent.is_set():
            raise malformed(f"the stream's end, with {len(unanswered)} pictures unanswered")

    def list_models(self) -> list[classifier_pb2.ModelStatus]:
        """List every model of the server, whatever its state.

        Raises:
            ClientError: the server cannot be reached.
        """
        return list(self._call(self._classifier.ListModels, classifier_pb2.ListModelsRequest()).models)

    def get_model(self, name: str, version: int | None = None) -> classifier_pb2.GetModelResponse:
        """Describe one model: its status, manifest and labels.

        Raises:
            ClientError: there is no such model, or the server cannot be reached.
        """
        return self._call(
            self._classifier.GetModel, classifier_pb2.GetModelRequest(name=name, version=version)
        )

    def is_serving(self, model: str = "") -> bool:
        """Ask the standard health service about a model, or about the whole server.

        Raises:
            ClientError: there is no such model, or the server cannot be reached.
        """
        check = self._health.Check  # type: ignore[attr-defined] # the stubs of this stub miss its methods
        response = self._call(check, health_pb2.HealthCheckRequest(service=model))
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout_s: float | None = None,
    ) -> Response:
        try:
            return method(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise client_error(error) from error


def image(picture: Picture) -> classifier_pb2.Image:
    """Put a picture into a message.

    Raises:
        TypeError: it is neither bytes nor a uint8 array ``[H, W, C]``.
    """
    if isinstance(picture, bytes):
        return classifier_pb2.Image(encoded=picture)
    import numpy as np

    if not isinstance(picture, np.ndarray):
        raise TypeError(f"a picture is a file's bytes or an array, not {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.ndim != 3:
        raise TypeError(f"pixels must be uint8 [H, W, C], not {picture.dtype} {list(picture.shape)}")
    height, width, channels = picture.shape
    pixels = classifier_pb2.Pixels(height=height, width=width, channels=channels, data=picture.tobytes())
    return classifier_pb2.Image(pixels=pixels)


def _labels(response: classifier_pb2.ClassifyResponse, pictures: int) -> list[list[Label]]:
    """Return the labels of each picture.

    Raises:
        ClientError: the response is not one to so many pictures.
    """
    if len(response.classifications) != pictures:
        raise malformed(f"{len(response.classifications)} classifications for {pictures} pictures")
    return [
        [Label(label.label, label.label_index, label.probability) for label in classification.labels]
        for classification in response.classifications
    ]
