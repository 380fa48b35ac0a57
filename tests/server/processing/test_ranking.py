"""The best labels, in an order that anybody can tell beforehand."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from artifact import pictures
from export import pipeline
from export.data import datasets
from export.training import train
from modelzoo.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    manifest_pb2,
    open_inference_pb2,
    open_inference_pb2_grpc,
)
from server.models.model import Holders, ReadyModel
from server.observability.metrics import Metrics
from server.observability.statistics import Statistics
from server.processing.decoding import Decoder, Limits
from server.processing.ranking import MAX_LABELS, EncodedLabels, rank
from server.processing.tracking import RequestTracker
from server.services.classifier import Classifier

LABELS = tuple("abcdef")
SIMPLE = "simple_cnn-digits"
pytestmark = pytest.mark.serves(SIMPLE)


def answer(rows: np.ndarray, labels: tuple[str, ...], top_k: int) -> Sequence[classifier_pb2.Classification]:
    return classifier_pb2.ClassifyResponse.FromString(
        rank(rows, EncodedLabels(labels), top_k)
    ).classifications


def ranked(row: list[float], top_k: int) -> list[tuple[str, int, float]]:
    [classification] = answer(np.array([row], np.float32), LABELS[: len(row)], top_k)
    return [(score.label, score.label_index, score.probability) for score in classification.labels]


def test_the_most_probable_label_comes_first() -> None:
    assert ranked([0.125, 0.5, 0.0625, 0.3125], 4) == [
        ("b", 1, 0.5),
        ("d", 3, 0.3125),
        ("a", 0, 0.125),
        ("c", 2, 0.0625),
    ]


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_exactly_top_k_labels_come(top_k: int) -> None:
    best = ranked([0.125, 0.5, 0.0625, 0.3125], 4)
    assert ranked([0.125, 0.5, 0.0625, 0.3125], top_k) == best[:top_k]


def test_equal_labels_come_in_the_order_of_the_labels() -> None:
    assert [index for _, index, _ in ranked([0.1, 0.2, 0.1, 0.2, 0.2, 0.1], 6)] == [1, 3, 4, 0, 2, 5]
    many = np.random.default_rng(0).integers(0, 3, (1, 1000)).astype(np.float32)
    [row] = answer(many, tuple(map(str, range(1000))), 1000)
    wanted = sorted(range(1000), key=lambda index: (-many[0, index], index))
    assert [score.label_index for score in row.labels] == wanted


def test_a_probability_is_the_networks_own_float_to_the_last_bit() -> None:
    tenth, third = float(np.float32(0.1)), float(np.float32(1 / 3))
    assert ranked([0.1, 1 / 3], 2) == [("b", 1, third), ("a", 0, tenth)]


def test_every_row_is_ranked_for_itself() -> None:
    rows = np.array([[0.75, 0.25], [0.125, 0.875], [0.5, 0.5]], np.float32)
    got = [[(s.label_index, s.probability) for s in row.labels] for row in answer(rows, ("a", "b"), 2)]
    assert got == [[(0, 0.75), (1, 0.25)], [(1, 0.875), (0, 0.125)], [(0, 0.5), (1, 0.5)]]


@pytest.mark.parametrize("front_ends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_labels_without_end_are_refused_before_anything_is_decoded(start_server, front_ends: int) -> None:
    """Unary and streamed, of either service; the images are no pictures, which would be the next reason."""
    images = MAX_LABELS // 10 + 1
    running = start_server(max_images_per_request=images, max_queue_size=images, frontends=front_ends)
    reason = f"10 labels of {images} images are {10 * images:,}, more than {MAX_LABELS:,}"
    request = classifier_pb2.ClassifyRequest(
        model=SIMPLE, images=[classifier_pb2.Image(encoded=b"none")] * images, top_k=10
    )
    wanted = open_inference_pb2.ModelInferRequest(model_name=SIMPLE)
    wanted.inputs.add(name="images", datatype="BYTES", shape=[images])
    wanted.outputs.add(name="probabilities").parameters["classification"].int64_param = 11  # there are ten
    wanted.raw_input_contents.append(bytes(4 * images))
    with grpc.insecure_channel(running.address) as channel:
        ours = classifier_pb2_grpc.ClassifierServiceStub(channel)
        open_inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for call, message, field in (
            (ours.Classify, request, "top_k"),
            (open_inference.ModelInfer, wanted, "outputs[0].parameters[classification]"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(message)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == f"{field}: {reason}"
        [answer] = ours.ClassifyStream(iter([classifier_pb2.ClassifyStreamRequest(request=request)]))
        assert answer.error.message == f"top_k: {reason}"
        [answer] = open_inference.ModelStreamInfer(iter([wanted]))
        assert answer.error_message == f"outputs[0].parameters[classification]: {reason}"
    with running.client() as client:
        assert len(client.classify(SIMPLE, [np.zeros((8, 8, 1), np.uint8)])) == 1


def test_a_request_of_ten_thousand_labels_is_answered_as_small_ones_are(
    start_server, digits: datasets.Split, exported: dict[str, pipeline.Exported]
) -> None:
    running = start_server(max_images_per_request=1000)
    images = np.resize(digits.images, (1000, 8, 8, 1))  # they come round again
    one = exported[SIMPLE]
    rows = digits.fitted(one.manifest.input, one.manifest.preprocessing).images
    expected = np.resize(train.probabilities(one.served, rows), (1000, 10))
    with running.client() as client:
        large = client.classify(SIMPLE, list(images), top_k=10)
        small = client.classify(SIMPLE, list(images[:500]), top_k=10)
    assert [[label.index for label in row] for row in large[:500]] == [
        [label.index for label in row] for row in small
    ]
    for row, wanted in zip(large, expected, strict=True):
        got = {label.index: label.probability for label in row}
        assert [got[index] for index in range(10)] == pytest.approx(wanted.tolist(), abs=1e-5)
        scores = [label.probability for label in row]
        assert scores == sorted(scores, reverse=True)


class WatchedLabels(tuple):
    """Labels that remember on which threads they were read."""

    def __init__(self, _: tuple[str, ...]) -> None:
        self.readers: set[threading.Thread] = set()

    def __getitem__(self, index: int) -> str:
        self.readers.add(threading.current_thread())
        return super().__getitem__(index)


@dataclass
class OneModel:
    """A repository of one model, which is ready."""

    model: ReadyModel

    def ready(self, name: str, version: int | None = None) -> ReadyModel:
        return self.model


@pytest.mark.parametrize(("images", "on_the_loop"), [(1000, True), (1001, False)])
def test_more_than_two_thousand_labels_are_not_made_on_the_event_loop(wire, images, on_the_loop) -> None:
    async def scenario() -> None:
        wired = wire(max_batch_size=1024, max_queue_size=4096)
        metrics = Metrics(CollectorRegistry())
        decoder = Decoder(1, Limits(pictures.Limits(), 1, 1))
        labels = WatchedLabels(("dark", "light"))
        model = ReadyModel(
            classifier_pb2.ModelStatus(name="m", version=1),
            metrics.for_requests("m"),
            Statistics(),
            manifest_pb2.Manifest(input=manifest_pb2.Input(height=1, width=1, channels=1), label_count=2),
            labels,
            partial(wired.batcher.submit, wired.queue),
            4096,
            Holders(),
        )
        repository = OneModel(model)
        classifier = Classifier(repository, RequestTracker(repository, metrics), decoder, images)
        pixel = classifier_pb2.Image(pixels=classifier_pb2.Pixels(height=1, width=1, channels=1, data=b"\0"))
        request = classifier_pb2.ClassifyRequest(model="m", images=[pixel] * images)
        response = classifier_pb2.ClassifyResponse.FromString(await classifier.classify(request, None))
        decoder.close()
        best = {tuple((s.label, s.probability) for s in c.labels) for c in response.classifications}
        assert best == {(("light", 1.0), ("dark", 0.0))}
        assert len(response.classifications) == images
        assert (labels.readers == {threading.current_thread()}) is on_the_loop

    asyncio.run(scenario())
