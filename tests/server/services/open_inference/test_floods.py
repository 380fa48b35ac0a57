"""Requests that are small and would grow, or large: they are refused before they cost memory."""

import grpc
import numpy as np
import pytest

from modelzoo.v1 import open_inference_pb2 as messages
from server.processing.ranking import MAX_LABELS

SMALL = "simple_cnn-digits"
pytestmark = pytest.mark.serves(SMALL)
FIELD_LIMIT = 4 * 256 + 64
FLOOD_BYTES = 16 << 20
FLOODS = {  # what begins one, and what fills it: two bytes each, which grow a hundredfold when they are
    # parsed; or one, which grows eightfold
    "inputs": (b"", b"\x2a\x00"),
    "outputs": (b"", b"\x32\x00"),
    "parameters": (b"", b"\x22\x00"),
    "raw contents": (b"", b"\x3a\x00"),
    "unknown fields": (b"", b"\x78\x00"),
    "parameters of an input": (b"\x2a\x80\x80\x80\x08", b"\x22\x00"),
    "numbers of a shape": (b"\x2a\x85\x80\x80\x08\x1a\x80\x80\x80\x08", b"\x00"),
    "elements": (b"\x2a\x85\x80\x80\x08\x2a\x80\x80\x80\x08", b"\x42\x00"),
    "whole numbers": (b"\x2a\x8a\x80\x80\x08\x2a\x85\x80\x80\x08\x1a\x80\x80\x80\x08", b"\x00"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_fields_is_refused_before_it_is_parsed(server, tensors, kind: str) -> None:
    begin, fill = FLOODS[kind]
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        code, details = tensors.refusal(call, begin + fill * (FLOOD_BYTES // len(fill)))
    assert (code, details) == ("INVALID_ARGUMENT", f"request: more than {FIELD_LIMIT} fields")


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"\x0a", b"\x3a\x05ab", b"\x0a\x01\xff", b"\x2a\x02\x0a\x05"]
)
def test_bytes_that_are_no_request_are_refused(server, tensors, body: bytes) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert tensors.refusal(call, body) == (
            "INVALID_ARGUMENT",
            "request: not an inference.ModelInferRequest",
        )


def test_a_classification_of_more_labels_than_an_answer_may_have_is_refused(start_server, tensors_of) -> None:
    running = start_server(max_images_per_request=2 * MAX_LABELS, max_queue_size=2 * MAX_LABELS)
    tensors = tensors_of(running)
    best = tensors.wanted(classification=messages.InferParameter(int64_param=1))
    for count, details in (
        (MAX_LABELS, ""),
        (
            MAX_LABELS + 1,
            "outputs[0].parameters[classification]: 1 labels of 32769 images are 32,769, more than 32,768",
        ),
    ):
        request = tensors.pixels(np.zeros((count, 8, 8, 1), np.uint8), best)
        request.model_name = SMALL
        if not details:
            assert len(tensors.texts(tensors.stub.ModelInfer(request))) == count
        else:
            assert tensors.refusal(tensors.stub.ModelInfer, request) == ("INVALID_ARGUMENT", details)
