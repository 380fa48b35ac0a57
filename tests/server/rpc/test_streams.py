"""A stream of requests: each is answered or refused by itself, and the stream goes on."""

import queue
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from client import Client, ClientError
from modelzoo.v1 import classifier_pb2
from server.rpc.streams import MAX_OUTSTANDING
from tests.server.progress import wait_for

MODEL, OTHER = "lenet5-digits", "simple_cnn-digits"
SERVICE = "modelzoo.v1.ClassifierService"
PIXELS = np.zeros((32, 32, 1), np.uint8)
CODES = {code.value[0]: code for code in grpc.StatusCode}
Request = classifier_pb2.ClassifyStreamRequest


def question(id_: str = "", model: str = MODEL, side: int = 32, images: int = 1, **more: int) -> Request:
    pixels = classifier_pb2.Pixels(height=side, width=side, channels=1, data=bytes(side * side))
    request = classifier_pb2.ClassifyRequest(
        model=model, images=[classifier_pb2.Image(pixels=pixels)] * images
    )
    return Request(id=id_, request=request, **more)


class Stream:
    """One open call: put requests in, take answers out."""

    def __init__(self, channel: grpc.Channel, timeout_s: float = 60) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method = channel.stream_stream(
            f"/{SERVICE}/ClassifyStream", None, classifier_pb2.ClassifyStreamResponse.FromString
        )
        self.call = method(iter(self._requests.get, None), timeout=timeout_s)

    def send(self, *requests: Request | bytes) -> None:
        for request in requests:
            self._requests.put(request if isinstance(request, bytes) else request.SerializeToString())

    def receive(self, count: int = 1) -> list[classifier_pb2.ClassifyStreamResponse]:
        return [next(self.call) for _ in range(count)]

    def end(self) -> list[classifier_pb2.ClassifyStreamResponse]:
        """Say that all is said; give what still comes."""
        self._requests.put(None)
        return list(self.call)


def received(running, reading) -> float:
    labels = {"grpc_service": SERVICE, "grpc_method": "ClassifyStream"}
    return reading(running, "grpc_server_msg_received_total", grpc_type="bidi_stream", **labels)


def until_received(running, reading, count: int) -> None:
    wait_for(lambda: received(running, reading) >= count)


@pytest.fixture
def stream(server) -> Iterator[Stream]:
    with grpc.insecure_channel(server.address) as channel:
        one = Stream(channel)
        yield one
        one.call.cancel()


@pytest.fixture
def gated(start_server, gates):
    """A server whose lenet5 has a gate; the gate, and an open stream."""
    running = start_server(open_network=gates, max_queue_size=2 * MAX_OUTSTANDING, lanes=2)
    with grpc.insecure_channel(running.address) as channel:
        yield running, gates[MODEL], Stream(channel)


def test_every_digit_gets_the_answer_of_a_call_of_its_own(server, digits) -> None:
    images = list(digits.images[:100])
    with server.client() as client:
        wanted = client.classify(OTHER, images)
        answers = dict(client.classify_stream(OTHER, images))
    assert [answers[index][0].text for index in range(100)] == [labels[0].text for labels in wanted]
    assert all(len(labels) == 5 for labels in answers.values())


def test_answers_carry_the_ids_and_come_as_they_are_ready(gated) -> None:
    _, network, stream = gated
    network.shut()
    stream.send(question("slow"))
    network.entered.acquire()
    stream.send(question("quick", OTHER, side=8))
    assert [answer.id for answer in stream.receive()] == ["quick"]
    network.gate.set()
    assert [answer.id for answer in stream.end()] == ["slow"]
    assert stream.call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("bad", "code", "message"),
    [
        (question("x", side=31), grpc.StatusCode.INVALID_ARGUMENT, "images[0]: pixels of shape"),
        (question("x", model="lenet6"), grpc.StatusCode.NOT_FOUND, "no model is called 'lenet6'"),
        (question("x", images=0), grpc.StatusCode.INVALID_ARGUMENT, "images: 0 images"),
        (question("x", images=257), grpc.StatusCode.INVALID_ARGUMENT, "images: 257 images"),
        (question("x", timeout_ms=0), grpc.StatusCode.INVALID_ARGUMENT, "timeout_ms: 0 is not above zero"),
        (question("x", timeout_ms=-5), grpc.StatusCode.INVALID_ARGUMENT, "timeout_ms: -5 is not above zero"),
        (Request(id="x"), grpc.StatusCode.NOT_FOUND, "no model is called ''"),
    ],
)
def test_a_bad_request_is_refused_and_the_stream_goes_on(
    stream: Stream, bad: Request, code: grpc.StatusCode, message: str
) -> None:
    stream.send(question("before"), bad, question("after"))
    answers = {answer.id: answer for answer in stream.end()}
    assert set(answers) == {"before", "x", "after"}
    assert CODES[answers["x"].error.code] == code
    assert answers["x"].error.message.startswith(message)
    for good in ("before", "after"):
        assert len(answers[good].response.classifications) == 1
    assert stream.call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\x05abc", b"\x18\x01" * 3000, question(images=3000).SerializeToString()]
)
def test_what_is_no_request_is_refused_without_an_id(stream: Stream, body: bytes) -> None:
    stream.send(body, question("after"))
    answers = {answer.id: answer for answer in stream.end()}
    assert set(answers) == {"", "after"}
    assert CODES[answers[""].error.code] == grpc.StatusCode.INVALID_ARGUMENT
    violation = error_details_pb2.BadRequest()
    assert answers[""].error.details[0].Unpack(violation)
    assert violation.field_violations[0].field == "request"


def test_a_request_whose_own_time_is_over_is_refused_alone(gated, reading) -> None:
    running, network, stream = gated
    network.shut()
    for number in range(2):  # one for each lane
        stream.send(question(f"held {number}"))
        network.entered.acquire()
    stream.send(question("late", timeout_ms=100), question("patient", timeout_ms=60_000))
    until_received(running, reading, 4)
    over_s = time.monotonic() + 0.1
    with running.client() as client:
        while time.monotonic() < over_s:
            client.list_models()
    network.gate.set()
    answers = {answer.id: answer for answer in stream.end()}
    assert len(answers) == 4
    assert CODES[answers.pop("late").error.code] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert all(answer.HasField("response") for answer in answers.values())


def test_a_client_that_does_not_wait_is_not_read_on(gated, reading) -> None:
    running, network, stream = gated
    network.shut()
    stream.send(*(question(str(number)) for number in range(MAX_OUTSTANDING + 40)))
    until_received(running, reading, MAX_OUTSTANDING)
    with running.client() as client:
        for _ in range(20):  # the loop goes round many times
            client.list_models()
    assert received(running, reading) == MAX_OUTSTANDING
    network.gate.set()
    assert {answer.id for answer in stream.end()} == {str(number) for number in range(MAX_OUTSTANDING + 40)}


def test_a_client_that_hangs_up_leaves_nothing_behind(gated, frontends: int) -> None:
    running, network, stream = gated
    network.shut()
    stream.send(*(question(str(number)) for number in range(20)))
    network.entered.acquire()
    stream.call.cancel()
    network.gate.set()
    if not frontends:  # else it is in another process
        wait_for(running.front.in_flight.idle.is_set)
    with running.client() as client:
        assert len(client.classify(MODEL, [PIXELS])) == 1


def test_a_stop_answers_what_was_accepted(gated) -> None:
    running, network, stream = gated
    network.shut()
    stream.send(question("accepted"))
    network.entered.acquire()
    stopping = threading.Thread(target=running.stop)
    stopping.start()
    with running.client() as client:
        while client.is_serving():
            pass
    stream.send(question("too late"))
    assert CODES[stream.receive()[0].error.code] == grpc.StatusCode.UNAVAILABLE
    network.gate.set()
    answer = stream.receive()[0]
    assert (answer.id, answer.WhichOneof("outcome")) == ("accepted", "response")
    stopping.join()
    with pytest.raises(grpc.RpcError):
        stream.receive()


def test_a_refusal_reaches_the_client_with_its_field_and_the_others_are_answered(server) -> None:
    with server.client() as client:
        answers = dict(client.classify_stream(MODEL, [PIXELS, PIXELS[:31], b"no picture", PIXELS], top_k=3))
    assert [len(answers[index]) for index in (0, 3)] == [3, 3]
    for index in (1, 2):
        error = answers[index]
        assert isinstance(error, ClientError)
        assert (error.code, error.field, error.from_server) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "images[0]",
            True,
        )


def test_what_the_callers_own_pictures_raise_reaches_the_caller(server) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield PIXELS
        raise KeyError("the drawer is empty")

    with server.client() as client:
        answers = client.classify_stream(MODEL, pictures())
        assert next(answers)[0] == 0
        with pytest.raises(KeyError, match="the drawer is empty"):
            next(answers)
        with pytest.raises(TypeError, match="a picture is"):
            list(client.classify_stream(MODEL, ["picture.png"]))


def test_nobody_at_the_address_is_one_clear_error() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ClientError) as caught:
        list(client.classify_stream(MODEL, [PIXELS]))
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
