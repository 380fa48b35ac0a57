"""Many tensors over one call: each request is answered or refused under its id."""

import queue

import grpc
import numpy as np
import pytest

from export import pipeline
from export.training import train
from modelzoo.v1 import open_inference_pb2 as messages
from server.rpc.streams import MAX_OUTSTANDING

MODEL = "lenet5-digits"
TOLERANCE = 1e-5
Request = messages.ModelInferRequest


class Stream:
    """One open ModelStreamInfer: put requests in, take answers out."""

    def __init__(self, stub, **headers: str) -> None:
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.answers = stub.ModelStreamInfer(iter(self._requests.get, None), metadata=tuple(headers.items()))

    def send(self, *requests: Request | None) -> None:
        for request in requests:
            self._requests.put(request)


def test_a_stream_answers_every_request_under_its_id(
    tensors, images: np.ndarray, exported: dict[str, pipeline.Exported]
) -> None:
    expected = train.probabilities(exported[MODEL].served, images)
    stream = Stream(tensors.stub)
    count = 2 * MAX_OUTSTANDING
    stream.send(*(tensors.pixels(images[n % 70][np.newaxis], Request(id=str(n))) for n in range(count)), None)
    answers = {answer.infer_response.id: answer for answer in stream.answers}
    assert len(answers) == count
    for n in range(count):
        answer = answers[str(n)]
        assert answer.error_message == ""
        np.testing.assert_allclose(
            tensors.probabilities(answer.infer_response), expected[[n % 70]], atol=TOLERANCE
        )


def test_a_refused_request_leaves_the_stream_open(tensors, images: np.ndarray) -> None:
    stream = Stream(tensors.stub)
    stream.send(tensors.pixels(images[:, :31], Request(id="bad")))
    refused = next(stream.answers)
    assert "inputs[0].shape: [70, 31, 32, 1], not [N, 32, 32, 1]" in refused.error_message
    assert refused.infer_response == messages.ModelInferResponse(id="bad")
    stream.send(tensors.pixels(images[:1], Request(id="good")), None)
    [answer] = stream.answers
    assert (answer.infer_response.id, answer.error_message) == ("good", "")


def test_a_refused_request_ends_the_stream_of_who_asks_for_that(tensors, images: np.ndarray) -> None:
    stream = Stream(tensors.stub, triton_grpc_error="true")
    stream.send(tensors.pixels(images[:1], Request(id="good")))
    assert next(stream.answers).infer_response.id == "good"
    stream.send(tensors.pixels(images[:1], Request(model_name="lenet6")))
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.answers)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    stream.send(None)
