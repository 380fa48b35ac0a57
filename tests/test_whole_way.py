"""The promise of the project, walked from end to end: train, export, serve, ask; nothing is faked."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact import manifest
from bench.load.closed_loop import closed_loop
from bench.load.load import Load
from bench.load.protocols import Classify
from client import Client
from export import pipeline
from export.data import datasets
from export.training import train
from zoo import catalog

ARCHITECTURES = ("simple_cnn", "two_block_cnn", "lenet5")


def as_png(image: np.ndarray) -> bytes:
    """Encode a grey image, uint8 [H, W, 1]."""
    stream = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pipeline.Exported]:
    """The digits models, trained as `modelzoo export` trains them."""
    folder = tmp_path_factory.mktemp("trained")
    return {name: pipeline.export(catalog.find(name), pipeline.Request(folder)) for name in ARCHITECTURES}


@pytest.fixture
def trained_client(trained: dict[str, pipeline.Exported], start_server) -> Iterator[Client]:
    folder = trained["lenet5"].folder.parent.parent
    with start_server(repository=folder).client() as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trained_models_are_right_about_held_out_digits(
    trained: dict[str, pipeline.Exported], name: str
) -> None:
    accuracy = manifest.read(trained[name].folder).precisions[0].accuracy
    assert accuracy.images == 360
    assert accuracy.correct / accuracy.images >= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_held_out_digit_gets_the_label_that_pytorch_gives(
    trained: dict[str, pipeline.Exported], trained_client: Client, name: str
) -> None:
    test = datasets.load("digits", seed=0, cache=Path()).test
    exported = trained[name]
    fitted = test.fitted(exported.manifest.input, exported.manifest.preprocessing)
    expected = train.probabilities(exported.served, fitted.images)
    answers = trained_client.classify(
        f"{name}-digits", [as_png(image) for image in test.images[:180]], top_k=1
    )
    answers += trained_client.classify(
        f"{name}-digits", [as_png(image) for image in test.images[180:]], top_k=1
    )
    assert [labels[0].index for labels in answers] == expected.argmax(axis=1).tolist()
    assert [labels[0].probability for labels in answers] == pytest.approx(expected.max(axis=1), abs=1e-5)


def test_64_clients_get_3200_right_answers(
    exported: dict[str, pipeline.Exported], server, record_property: Callable[[str, object], None]
) -> None:
    one = exported["lenet5-digits"]
    test = datasets.load("digits", seed=0, cache=Path()).test
    fitted = test.fitted(one.manifest.input, one.manifest.preprocessing)
    labels = [{int(label)} for label in train.probabilities(one.served, fitted.images).argmax(axis=1)]
    pictures = [as_png(image) for image in test.images]
    load = Load(
        Classify("lenet5-digits"),
        pictures,
        labels,
        outstanding=64,
        connections=64,
        requests=3200,
        seconds=250,
    )
    report = closed_loop(load, server.address)
    assert (report.answered, report.errors) == (3200, 0)
    record_property("images in a batch", round(report.mean_batch, 1))
