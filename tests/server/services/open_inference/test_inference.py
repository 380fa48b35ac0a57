"""The Open Inference Protocol: the same answers as the classifier's, in tensors."""

import grpc
import numpy as np
import pytest

from artifact import pictures
from export import pipeline
from export.data import datasets
from export.training import train
from modelzoo.v1 import open_inference_pb2 as messages
from server.inference import Priority

MODEL = "lenet5-digits"
TOLERANCE = 1e-5
Request = messages.ModelInferRequest


@pytest.fixture
def expected(images: np.ndarray, exported: dict[str, pipeline.Exported]) -> np.ndarray:
    """PyTorch's answers to them, float32 [70, 10]."""
    return train.probabilities(exported[MODEL].served, images)


def timeout(microseconds: int) -> Request:
    return Request(parameters={"timeout": whole(microseconds)})


def whole(number: int) -> messages.InferParameter:
    return messages.InferParameter(int64_param=number)


def test_raw_pixels_get_the_probabilities(tensors, images: np.ndarray, expected: np.ndarray) -> None:
    response = tensors.stub.ModelInfer(tensors.pixels(images, Request(id="281474976710656")))
    assert (response.model_name, response.model_version) == (MODEL, "1")
    assert response.id == "281474976710656"
    assert list(response.outputs[0].shape) == [70, 10]
    assert not response.outputs[0].HasField("contents")
    np.testing.assert_allclose(tensors.probabilities(response), expected, atol=TOLERANCE)


@pytest.mark.parametrize("value", [0, 127, 128, 255])
def test_typed_pixels_get_the_probabilities(
    tensors, images: np.ndarray, value: int, exported: dict[str, pipeline.Exported]
) -> None:
    pixels = images[:3].copy()
    pixels[0] = value
    request = Request(model_name=MODEL)
    given = request.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    given.contents.uint_contents.extend(pixels.ravel().tolist())
    answers = tensors.probabilities(tensors.stub.ModelInfer(request))
    np.testing.assert_allclose(answers, train.probabilities(exported[MODEL].served, pixels), atol=TOLERANCE)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("axes", [1, 2])
def test_encoded_pictures_are_decoded_here(
    tensors, digits: datasets.Split, encode, exported: dict[str, pipeline.Exported], typed: bool, axes: int
) -> None:
    files = [encode(image) for image in digits.images[:5]]
    request = tensors.files(*files)
    request.inputs[0].shape[:] = (5, 1)[:axes]
    if typed:
        request.inputs[0].contents.bytes_contents.extend(files)
        request.ClearField("raw_input_contents")
    one = exported[MODEL]
    rows = [pictures.decode(file, one.manifest.input, one.manifest.preprocessing) for file in files]
    answers = tensors.probabilities(tensors.stub.ModelInfer(request))
    np.testing.assert_allclose(answers, train.probabilities(one.served, np.stack(rows)), atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 3, 10, 2**62])
def test_a_classification_gives_the_best_labels_as_texts(
    tensors, images: np.ndarray, expected: np.ndarray, count: int
) -> None:
    request = tensors.pixels(images[:4], tensors.wanted(classification=whole(count)))
    response = tensors.stub.ModelInfer(request)
    shown = min(count, 10)
    assert list(response.outputs[0].shape) == [4, shown]
    texts = np.reshape(tensors.texts(response), (4, shown))
    for row, wanted in zip(texts, expected[:4], strict=True):
        values, indices, labels = zip(*(text.split(":") for text in row), strict=True)
        assert list(indices) == list(labels)  # the labels of digits are their indices
        assert [int(index) for index in indices] == np.argsort(-wanted, kind="stable")[:shown].tolist()
        assert [float(value) for value in values] == pytest.approx(sorted(wanted)[::-1][:shown], abs=2e-5)
        assert all(len(value.split(".")[1]) == 6 for value in values)


def test_asking_for_the_output_by_its_name_is_asking_for_all(tensors, images: np.ndarray) -> None:
    named = tensors.stub.ModelInfer(tensors.pixels(images[:2], tensors.wanted()))
    assert named == tensors.stub.ModelInfer(tensors.pixels(images[:2]))


def test_parameters_that_nobody_knows_are_passed_over(tensors, images: np.ndarray) -> None:
    unknown = {
        "triton_enable_empty_final_response": messages.InferParameter(bool_param=True),
        "priority": messages.InferParameter(uint64_param=1),
        "sequence_id": whole(7),
        "timeout": whole(0),
        "colour": messages.InferParameter(string_param="green"),
    }
    more = tensors.wanted(binary_data=unknown["colour"])
    request = tensors.pixels(images[:1], Request(parameters=unknown), more)
    request.inputs[0].parameters["content_type"].string_param = "np"
    assert len(tensors.probabilities(tensors.stub.ModelInfer(request))) == 1


def test_a_version_may_be_named(tensors, images: np.ndarray) -> None:
    response = tensors.stub.ModelInfer(tensors.pixels(images[:1], Request(model_version="1")))
    assert response.model_version == "1"


def test_a_full_queue_is_told_as_the_settings_say(start_server, tensors_of, gates, images, wait_for) -> None:
    for compat, code in (("none", "RESOURCE_EXHAUSTED"), ("triton", "UNAVAILABLE")):
        running = start_server(
            open_network=gates,
            status_compat=compat,
            max_queue_size=40,
            max_images_per_request=40,
            model_batch_sizes={MODEL: [32]},  # whatever the machine measures, 32 go at once
        )
        tensors, network = tensors_of(running), gates[MODEL]
        network.shut()
        accepted = [tensors.stub.ModelInfer.future(tensors.pixels(images[:32]))]
        network.entered.acquire()
        accepted.append(tensors.stub.ModelInfer.future(tensors.pixels(images[:32])))
        queue_ = running.queue(MODEL)
        wait_for(lambda queue_=queue_: queue_.waiting == 32)
        with pytest.raises(grpc.RpcError) as caught:
            tensors.stub.ModelInfer(tensors.pixels(images[:9]))
        assert caught.value.code().name == code
        assert "images queued for lenet5-digits" in caught.value.details()
        assert any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata())
        network.gate.set()
        assert [len(tensors.probabilities(call.result())) for call in accepted] == [32, 32]


def test_a_timeout_bounds_the_wait_of_a_client_without_a_deadline(
    start_server, tensors_of, gates, images: np.ndarray
) -> None:
    tensors, network = tensors_of(start_server(open_network=gates)), gates[MODEL]
    network.shut()
    held = tensors.stub.ModelInfer.future(tensors.pixels(images[:1]))
    network.entered.acquire()
    patient = tensors.stub.ModelInfer.future(tensors.pixels(images[:1], timeout(600_000_000)))
    code, _ = tensors.refusal(tensors.stub.ModelInfer, tensors.pixels(images[:1], timeout(1)))
    assert code == "DEADLINE_EXCEEDED"
    network.gate.set()
    assert [len(tensors.probabilities(call.result())) for call in (held, patient)] == [1, 1]


def test_a_priority_above_one_is_bulk(start_server, tensors_of, gates, images: np.ndarray, wait_for) -> None:
    running = start_server(open_network=gates)
    tensors, network = tensors_of(running), gates[MODEL]
    network.shut()
    calls = [tensors.stub.ModelInfer.future(tensors.pixels(images[:1]))]
    network.entered.acquire()
    levels = running.queue(MODEL).levels
    for waiting, level in enumerate((0, 1, 2, 2**63 - 1), 1):
        for kind in ("int64_param", "uint64_param"):
            urgency = Request(parameters={"priority": messages.InferParameter(**{kind: level})})
            calls.append(tensors.stub.ModelInfer.future(tensors.pixels(images[:1], urgency)))
        wait_for(lambda waiting=waiting: sum(one.waiting for one in levels) == 2 * waiting)
    assert [levels[priority].waiting for priority in (Priority.INTERACTIVE, Priority.BULK)] == [4, 4]
    network.gate.set()
    assert [len(tensors.probabilities(call.result())) for call in calls] == [1] * 9
