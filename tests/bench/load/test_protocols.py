"""What a load says and understands in each protocol, held against protobuf."""

import numpy as np
import pytest
from google.rpc import code_pb2, status_pb2

from bench.load.protocols import Answer, Classify, Infer
from modelzoo.v1 import classifier_pb2, open_inference_pb2

CLASSIFY = Classify("net")
INFER = Infer("net", "images", "probabilities")
PICTURES = [np.full((2, 3, 1), value, np.uint8) for value in (7, 8)]


def classified(*labels: int, batch_size: int = 4) -> classifier_pb2.ClassifyResponse:
    response = classifier_pb2.ClassifyResponse(timing=classifier_pb2.Timing(batch_size=batch_size))
    for label in labels:
        response.classifications.add().labels.add(label_index=label)
    return response


def inferred(*rows: list[float], raw: bool = True) -> open_inference_pb2.ModelInferResponse:
    response = open_inference_pb2.ModelInferResponse(id="12")
    response.outputs.add(name="another", datatype="INT32", shape=[1])
    output = response.outputs.add(name="probabilities", datatype="FP32", shape=[len(rows), len(rows[0])])
    if raw:
        response.raw_output_contents.extend([b"\0\0\0\0", np.array(rows, np.float32).tobytes()])
    else:
        output.contents.fp32_contents.extend(np.ravel(rows))
    return response


def test_a_request_asks_for_one_label_of_each_picture() -> None:
    request = classifier_pb2.ClassifyRequest.FromString(CLASSIFY.encode([PICTURES[0], b"a file"]))
    assert (request.model, request.top_k) == ("net", 1)
    assert [image.WhichOneof("content") for image in request.images] == ["pixels", "encoded"]


def test_a_streams_message_carries_number_and_deadline() -> None:
    body = CLASSIFY.encode(PICTURES)
    for timeout_s, timeout_ms in ((None, 0), (0.25, 250), (1e-6, 1)):
        message = CLASSIFY.numbered(123_456, CLASSIFY.streamed(body, timeout_s))
        request = classifier_pb2.ClassifyStreamRequest.FromString(message)
        assert request.id == "123456"
        assert request.request.SerializeToString() == body
        assert (request.timeout_ms, request.HasField("timeout_ms")) == (timeout_ms, timeout_s is not None)


def test_an_answer_is_its_labels_and_its_batch() -> None:
    assert CLASSIFY.answer(classified(3, 1).SerializeToString()) == Answer("OK", [3, 1], 4)
    message = classifier_pb2.ClassifyStreamResponse(id="12", response=classified(5))
    assert CLASSIFY.streamed_answer(message.SerializeToString()) == (12, Answer("OK", [5], 4))


def test_a_refusal_in_a_stream_is_its_status() -> None:
    error = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED)
    message = classifier_pb2.ClassifyStreamResponse(id="3", error=error)
    assert CLASSIFY.streamed_answer(message.SerializeToString()) == (3, Answer("RESOURCE_EXHAUSTED"))


def test_open_inference_is_asked_with_one_tensor_of_pixels() -> None:
    request = open_inference_pb2.ModelInferRequest.FromString(INFER.encode(PICTURES))
    assert (request.model_name, [output.name for output in request.outputs]) == ("net", ["probabilities"])
    [tensor] = request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("images", "UINT8", [2, 2, 3, 1])
    assert request.raw_input_contents == [bytes([7] * 6 + [8] * 6)]
    with pytest.raises(TypeError, match="with pixels, not with files"):
        INFER.encode([PICTURES[0], b"a file"])


def test_an_open_inference_stream_carries_number_and_deadline() -> None:
    body = INFER.encode(PICTURES)
    for timeout_s, timeouts_us in ((None, {}), (0.25, {"timeout": 250_000})):
        message = INFER.numbered(9, INFER.streamed(body, timeout_s))
        request = open_inference_pb2.ModelInferRequest.FromString(message)
        assert request.id == "9"
        assert {name: value.int64_param for name, value in request.parameters.items()} == timeouts_us
        assert request.raw_input_contents == [bytes([7] * 6 + [8] * 6)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_an_open_inference_answer_is_the_most_probable_label_of_each_row(raw: bool) -> None:
    response = inferred([0.1, 0.7, 0.2], [0.5, 0.2, 0.3], raw=raw)
    assert INFER.answer(response.SerializeToString()) == Answer("OK", [1, 0])
    message = open_inference_pb2.ModelStreamInferResponse(infer_response=response)
    assert INFER.streamed_answer(message.SerializeToString()) == (12, Answer("OK", [1, 0]))


def test_an_open_inference_error_in_a_stream_has_no_status_but_unknown() -> None:
    message = open_inference_pb2.ModelStreamInferResponse(error_message="no", infer_response={"id": "4"})
    assert INFER.streamed_answer(message.SerializeToString()) == (4, Answer("UNKNOWN", message="no"))


OTHER_NAME = Infer("net", "images", "logits")
NO_LABELS = classifier_pb2.ClassifyResponse(classifications=[{}])
SHORT = inferred([0.5, 0.5])
SHORT.raw_output_contents[1] = SHORT.raw_output_contents[1][:-4]


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        (CLASSIFY, b"\xff\xff"),
        (CLASSIFY, NO_LABELS.SerializeToString()),
        (INFER, b"\xff\xff"),
        (INFER, b""),
        (INFER, SHORT.SerializeToString()),
        (OTHER_NAME, inferred([0.5, 0.5]).SerializeToString()),
    ],
    ids=["garbage", "no labels", "garbage tensors", "no tensors", "short tensor", "another tensor"],
)
def test_an_answer_that_is_none_is_unreadable(protocol: Classify | Infer, body: bytes) -> None:
    assert protocol.answer(body) == Answer("unreadable")


def test_a_streams_message_that_is_none_is_nobodys() -> None:
    for message in (b"\xff\xff", classifier_pb2.ClassifyStreamResponse(id="x").SerializeToString()):
        assert CLASSIFY.streamed_answer(message)[0] is None
    assert INFER.streamed_answer(b"\xff\xff") == (None, Answer("unreadable"))
