"""A stream of pictures ends in answers or in a ClientError, however server and caller leave it."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from artifact.golden import Golden
from client import Client, ClientError
from modelzoo.v1 import classifier_pb2

NAME = "simple_cnn-digits"
pytestmark = pytest.mark.serves(NAME)
Requests = Iterator[classifier_pb2.ClassifyStreamRequest]
Answers = Iterator[classifier_pb2.ClassifyStreamResponse]
Answer = Callable[[Requests, grpc.ServicerContext], Answers]
Serve = Callable[[Answer], Client]


class Streams(grpc.GenericRpcHandler):
    """Answers every stream the same way."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(
            self._answer,
            classifier_pb2.ClassifyStreamRequest.FromString,
            classifier_pb2.ClassifyStreamResponse.SerializeToString,
        )


@pytest.fixture
def serve(client_of: Callable[[grpc.GenericRpcHandler], Client]) -> Serve:
    """Starts servers that answer streams as they are told to, and gives clients of them."""
    return lambda answer: client_of(Streams(answer))


def answered(request: classifier_pb2.ClassifyStreamRequest) -> classifier_pb2.ClassifyStreamResponse:
    response = classifier_pb2.ClassifyResponse()
    response.classifications.add().labels.add(label="7", label_index=7, probability=0.5)
    return classifier_pb2.ClassifyStreamResponse(id=request.id, response=response)


def status(code: int, message: str, retry_delay_s: int) -> status_pb2.Status:
    detail = Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay={"seconds": retry_delay_s}))
    return status_pb2.Status(code=code, message=message, details=[detail])


def rest_of(stream: Iterator[object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        list(stream)
    return caught.value


@pytest.mark.parametrize("code", [code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED])
def test_a_stream_that_the_server_ends_says_when_to_come_back(serve: Serve, code: int) -> None:
    def answer_one(requests: Requests, context: grpc.ServicerContext) -> Answers:
        yield answered(next(requests))
        context.abort_with_status(rpc_status.to_status(status(code, "idle for 60 s", 3)))

    stream = serve(answer_one).classify_stream("net", itertools.repeat(b"a picture"))
    index, labels = next(stream)
    assert (index, labels[0].text) == (0, "7")
    error = rest_of(stream)
    assert error.code.value[0] == code
    assert (str(error), error.retry_delay_s, error.from_server) == ("idle for 60 s", 3, True)


def test_a_picture_that_is_refused_says_when_to_send_it_again(serve: Serve) -> None:
    def refuse(requests: Requests, context: grpc.ServicerContext) -> Answers:
        for request in requests:
            full = status(code_pb2.RESOURCE_EXHAUSTED, "queue full", 2)
            yield classifier_pb2.ClassifyStreamResponse(id=request.id, error=full)

    [(index, error)] = serve(refuse).classify_stream("net", [b"a picture"])
    assert (index, error.code, error.retry_delay_s) == (0, grpc.StatusCode.RESOURCE_EXHAUSTED, 2)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (["0", "0"], "an answer to picture '0', which waits for none"),
        (["zero"], "an answer to picture 'zero', which waits for none"),
        (["7"], "an answer to picture '7', which waits for none"),
        ([], "the stream's end, with 2 pictures unanswered"),
        (["1"], "the stream's end, with 1 pictures unanswered"),
    ],
    ids=["twice", "no number", "never asked", "none", "too few"],
)
def test_answers_that_are_not_those_of_the_pictures_are_an_internal_error(
    serve: Serve, ids: list[str], reason: str
) -> None:
    def answer(requests: Requests, context: grpc.ServicerContext) -> Answers:
        asked = list(requests)
        for id_ in ids:
            asked[0].id = id_
            yield answered(asked[0])

    error = rest_of(serve(answer).classify_stream("net", [b"a", b"b"]))
    assert (error.code, str(error)) == (grpc.StatusCode.INTERNAL, f"the server sent {reason}")


def test_an_answer_without_labels_is_an_internal_error(serve: Serve) -> None:
    def answer(requests: Requests, context: grpc.ServicerContext) -> Answers:
        for request in requests:
            yield classifier_pb2.ClassifyStreamResponse(id=request.id)

    error = rest_of(serve(answer).classify_stream("net", [b"a"]))
    assert (error.code, str(error)) == (
        grpc.StatusCode.INTERNAL,
        "the server sent 0 classifications for 1 pictures",
    )


def test_a_stream_that_ends_before_all_pictures_were_taken_is_no_success(serve: Serve) -> None:
    def answer_one(requests: Requests, context: grpc.ServicerContext) -> Answers:
        yield answered(next(requests))

    error = rest_of(serve(answer_one).classify_stream("net", itertools.repeat(b"a picture")))
    assert error.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_what_the_pictures_raise_comes_after_the_answers_to_those_before(
    serve: Serve, kind: type[BaseException]
) -> None:
    def echo(requests: Requests, context: grpc.ServicerContext) -> Answers:
        yield from map(answered, requests)

    def pictures() -> Iterator[bytes]:
        yield b"a picture"
        raise kind("no more")

    stream = serve(echo).classify_stream("net", pictures())
    assert next(stream)[0] == 0
    with pytest.raises(kind, match="no more"):
        next(stream)


def test_a_stream_that_is_left_half_way_takes_no_more_pictures_and_ends_at_the_server(
    start_server, digits: Golden
) -> None:
    running = start_server()
    let_go = threading.Event()

    def pictures() -> Iterator[bytes]:
        try:
            while True:
                yield digits.images[0]
        finally:
            let_go.set()

    with running.client() as client:
        for _ in range(3):
            let_go.clear()
            stream = client.classify_stream(NAME, pictures())
            next(stream)
            stream.close()
            let_go.wait()
        assert len(client.classify(NAME, [digits.images[0]])) == 1  # the connection is as good as before


CALLERS = 1000


@pytest.mark.slow
def test_a_thousand_callers_share_one_client(start_server, digits: Golden) -> None:
    running = start_server(max_queue_size=4 * CALLERS)
    best = digits.probabilities.argmax(axis=1)
    together = threading.Barrier(CALLERS)

    def ask(client: Client, number: int) -> bool:
        index = number % len(best)
        together.wait()
        labels = client.classify(NAME, [digits.images[index]], top_k=1, timeout_s=120)
        return labels[0][0].index == best[index]

    with running.client() as client, ThreadPoolExecutor(CALLERS) as pool:
        right = list(pool.map(lambda number: ask(client, number), range(CALLERS)))
    assert right == [True] * CALLERS
