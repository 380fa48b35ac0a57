"""The whole zoo at once: every model answers the held-out digits as well as its manifest states."""

import os
from pathlib import Path

import pytest

from artifact import layout, manifest
from export import pipeline
from export.data import datasets
from export.training.recipes import Recipe
from zoo import catalog

# `make test-zoo` names a repository of fully trained models here.
REPOSITORY = os.environ.get("MODELZOO_ZOO")

# Of most families the smallest; an epoch or two, because here only the figures must be true.
BRIEFLY = {
    "lenet5": Recipe(epochs=3, learning_rate=1e-2),
    "simple_cnn": Recipe(epochs=3, learning_rate=1e-2),
    "two_block_cnn": Recipe(epochs=3, learning_rate=1e-2),
    "googlenet": Recipe(epochs=1, learning_rate=2e-3, threads=None),
    "resnet18": Recipe(epochs=1, learning_rate=1e-3, threads=None),
    "densenet121": Recipe(epochs=1, learning_rate=2e-3, threads=None),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of several architectures, in all precisions that pass their gates."""
    if REPOSITORY is not None:
        return Path(REPOSITORY)
    folder = tmp_path_factory.mktemp("zoo")
    for name, recipe in BRIEFLY.items():
        pipeline.export(catalog.find(name), pipeline.Request(folder, recipe=recipe))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)  # six exports, three of them of networks with many layers
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_model_answers_the_held_out_digits_with_the_accuracy_that_its_manifest_states(
    zoo: Path, start_server, precision: str
) -> None:
    entries = [entry for entry in layout.newest(zoo) if entry.name.endswith("-digits")]
    assert len(entries) >= 6
    manifests = {entry.name: manifest.read(entry.folder) for entry in entries}
    stated = {
        name: published.accuracy
        for name, described in manifests.items()
        for published in described.precisions
        if published.name == precision
    }
    assert stated
    running = start_server(repository=zoo, model_precisions=dict.fromkeys(stated, precision))
    assert set(stated) <= set(running.ready)
    test = datasets.load("digits", seed=0, cache=Path()).test
    with running.client() as client:
        for name, accuracy in stated.items():
            described = manifests[name]
            images = test.fitted(described.input, described.preprocessing).images
            answers = [
                labels[0].index
                for start in range(0, len(images), 120)
                for labels in client.classify(name, list(images[start : start + 120]), top_k=1)
            ]
            right = sum(answer == label for answer, label in zip(answers, test.labels, strict=True))
            assert (right, len(images)) == (accuracy.correct, accuracy.images), name
