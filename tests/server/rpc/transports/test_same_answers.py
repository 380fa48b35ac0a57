"""Ten thousand requests of all kinds get the same answers by either transport, bit for bit."""

import random
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from modelzoo.v1 import classifier_pb2, open_inference_pb2
from tests.conftest import StartServer

MODELS = ("lenet5-digits", "simple_cnn-digits", "no such model")
CLASSIFY = "/modelzoo.v1.ClassifierService/Classify"
STREAM = "/modelzoo.v1.ClassifierService/ClassifyStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
PATHS = (CLASSIFY, CLASSIFY, INFER, STREAM, "/grpc.health.v1.Health/Check", "/no.Such/Method")
_LIMIT_S = 60.0


def asked(count: int) -> Iterator[tuple[str, bytes]]:
    """Mixed requests of 1 to 40 images; some are of the wrong shape, or cut off."""
    chance, pixels = random.Random(12), np.random.default_rng(12)
    for _ in range(count):
        path = chance.choice(PATHS)
        model = chance.choices(MODELS, (4, 4, 1))[0]
        side = {"simple_cnn-digits": 8}.get(model, 32) + (chance.random() < 0.05)
        images = chance.choice((1, 1, 1, 2, 5, 8, 17, 40))
        content = pixels.integers(0, 256, (images, side, side, 1), np.uint8)
        if path == INFER:
            infer = open_inference_pb2.ModelInferRequest(model_name=model, id=str(images))
            infer.inputs.add(name="images", datatype="UINT8", shape=content.shape)
            infer.raw_input_contents.append(content.tobytes())
            body = infer.SerializeToString()
        else:
            request = classifier_pb2.ClassifyRequest(model=model)
            if chance.random() < 0.5:
                request.top_k = chance.randint(0, 11)
            for image in content:
                shaped = classifier_pb2.Pixels(height=side, width=side, channels=1, data=image.tobytes())
                request.images.add(pixels=shaped)
            streamed = classifier_pb2.ClassifyStreamRequest(id=str(images), request=request)
            body = (streamed if path == STREAM else request).SerializeToString()
        yield path, body[: chance.randrange(len(body))] if chance.random() < 0.02 else body


def answered(channel: grpc.Channel, path: str, body: bytes) -> tuple[object, ...]:
    """What came: the answers but for their times, or the status."""
    try:
        if path == STREAM:
            answers = list(channel.stream_stream(path)(iter([body]), timeout=_LIMIT_S))
        else:
            answers = [channel.unary_unary(path)(body, timeout=_LIMIT_S)]
    except grpc.RpcError as error:
        return error.code(), error.details()
    return tuple(without_times(path, answer) for answer in answers)


def without_times(path: str, answer: bytes) -> bytes:
    if path == CLASSIFY:
        response = classifier_pb2.ClassifyResponse.FromString(answer)
        response.ClearField("timing")
    elif path == STREAM:
        response = classifier_pb2.ClassifyStreamResponse.FromString(answer)
        response.response.ClearField("timing")
    else:
        return answer
    return response.SerializeToString(deterministic=True)


def compare(start_server: StartServer, count: int) -> None:
    addresses = [start_server(transport=transport).address for transport in ("grpc", "h2corn")]
    with grpc.insecure_channel(addresses[0]) as first, grpc.insecure_channel(addresses[1]) as second:
        kinds = set()
        for path, body in asked(count):  # one at a time: what a batch carries decides the last bits
            answer = answered(first, path, body)
            assert answered(second, path, body) == answer
            kinds.add((path, answer[0] if isinstance(answer[0], grpc.StatusCode) else "answered"))
    assert len(kinds) >= 10  # that is, more than one outcome of most paths


@pytest.mark.serves("lenet5-digits", "simple_cnn-digits")
def test_three_hundred_mixed_requests_get_the_same_answers(
    start_server: StartServer,
) -> None:
    compare(start_server, 300)


@pytest.mark.slow
@pytest.mark.serves("lenet5-digits", "simple_cnn-digits")
def test_ten_thousand_mixed_requests_get_the_same_answers(
    start_server: StartServer,
) -> None:
    compare(start_server, 10_000)
