"""What an export publishes is true, whole, and the same again; what fails publishes nothing."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from artifact import golden, layout, manifest, pictures
from export import pipeline
from export.data import datasets
from export.publishing import card
from export.training import train
from export.training.recipes import Recipe
from zoo import catalog

Exported = dict[str, pipeline.Exported]
NAMES = ("simple_cnn-digits", "two_block_cnn-digits", "lenet5-digits")
QUICK = Recipe(epochs=1, learning_rate=1e-2)


def request(repository: Path, recipe: Recipe, **options: Any) -> pipeline.Request:
    return pipeline.Request(repository, recipe=recipe, **options)


def onnx_answers(one: pipeline.Exported, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(one.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images})
    return probabilities


def fitted_test(one: pipeline.Exported) -> datasets.Split:
    test = datasets.load("digits", seed=0, cache=Path()).test
    return test.fitted(one.manifest.input, one.manifest.preprocessing)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_published_manifest_is_the_one_that_was_handed_back(exported: Exported, name: str) -> None:
    one = exported[name]
    read = manifest.read(one.folder)
    assert read == one.manifest
    manifest.check_files(read, one.folder)
    assert (read.name, read.version) == (name, 1)
    assert set(contents(one.folder)) == {
        "manifest.json",
        "model.onnx",
        "model.fp16.onnx",
        "model.int8.onnx",
        "labels.txt",
        "golden.npz",
        "card/README.md",
        "card/loss.png",
        "card/confusion.png",
        "card/mistakes.png",
        "card/latency.png",
        "card/example.png",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_repeats_what_the_catalog_says(exported: Exported, name: str) -> None:
    described = exported[name].manifest
    spec = catalog.find(name.removesuffix("-digits"))
    assert described.architecture == spec.name
    assert described.parameters == spec.parameters
    assert list(described.deviations) == list(spec.deviations)
    assert (described.input.height, described.input.width) == (spec.input.height, spec.input.width)
    assert described.input.channels == spec.input.channels
    assert list(described.input.mean) == list(spec.input.mean)
    assert list(described.input.std) == list(spec.input.std)
    assert described.preprocessing.resize_shorter_px == max(spec.input.height, spec.input.width)
    assert described.HasField("paper") == (spec.paper is not None)
    if spec.paper is not None:
        paper = described.paper
        assert (paper.title, paper.authors) == (spec.paper.title, spec.paper.authors)
        assert (paper.year, paper.link) == (spec.paper.year, spec.paper.link)


@pytest.mark.parametrize("name", NAMES)
def test_the_stated_accuracy_is_that_of_the_file_on_the_held_out_images(
    exported: Exported, name: str
) -> None:
    one = exported[name]
    test = fitted_test(one)
    right = int((onnx_answers(one, test.images).argmax(axis=1) == test.labels).sum())
    accuracy = one.manifest.precisions[0].accuracy
    assert accuracy.images == 360
    assert accuracy.correct == right
    assert (accuracy.low_ratio, accuracy.high_ratio) == manifest.wilson_interval(right, 360)
    assert accuracy.low_ratio < right / 360 < accuracy.high_ratio
    assert right > 180  # it has learned, so that the comparison says something
    assert accuracy.split == "held-out 20 % of scikit-learn's digits, stratified, seed 0"


@pytest.mark.parametrize("name", NAMES)
def test_the_stated_evidence_is_complete(exported: Exported, name: str) -> None:
    fp32 = exported[name].manifest.precisions[0]
    assert (fp32.name, fp32.file.name) == ("fp32", "model.onnx")
    assert [(parity.batch_size, parity.images, parity.top1_agreements) for parity in fp32.parity] == [
        (batch_size, 360, 360) for batch_size in (1, 2, 3, 7, 32)
    ]
    assert all(parity.max_abs_difference <= 1e-5 for parity in fp32.parity)
    assert {tolerance.provider: tolerance.max_abs_difference for tolerance in fp32.tolerances} == {
        "CPUExecutionProvider": 1e-5,
        "CUDAExecutionProvider": 5e-3,
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_answers_are_pytorchs(exported: Exported, name: str) -> None:
    one = exported[name]
    stored = golden.read(one.folder / one.manifest.golden.name)
    np.testing.assert_array_equal(stored.images, fitted_test(one).images[:16])
    assert stored.probabilities.shape == (16, 10)
    np.testing.assert_allclose(
        stored.probabilities, train.probabilities(one.served, stored.images), rtol=0, atol=1e-6
    )
    assert not np.array_equal(stored.probabilities, onnx_answers(one, stored.images))  # not the file's own


def test_the_labels_are_the_datasets(exported: Exported) -> None:
    for one in exported.values():
        assert (one.folder / "labels.txt").read_text("utf-8") == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
        assert one.manifest.label_count == 10


def test_the_training_and_the_tools_are_on_record(exported: Exported) -> None:
    for one in exported.values():
        weights = one.manifest.weights
        assert (weights.dataset, weights.seed) == ("digits", 0)
        written = json.loads((one.folder / "manifest.json").read_text("utf-8"))
        assert written["weights"]["seed"] == 0  # though 0 is what protobuf would leave out
        assert 1 <= weights.best_epoch <= weights.epochs
        assert weights.training_s > 0
        assert {"torch", "onnx", "onnxruntime-gpu", "numpy", "pillow"} <= one.manifest.tools.keys()
        for tool, version in one.manifest.tools.items():
            assert version == importlib.metadata.version(tool)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_card_is_a_held_out_picture_and_classifies(exported: Exported, name: str) -> None:
    one = exported[name]
    encoded = (one.folder / layout.CARD / layout.EXAMPLE).read_bytes()
    image = Image.open(one.folder / layout.CARD / layout.EXAMPLE)
    np.testing.assert_array_equal(np.asarray(image), fitted_test(one).images[0, :, :, 0])
    pixels = pictures.decode(encoded, one.manifest.input, one.manifest.preprocessing)
    np.testing.assert_allclose(
        onnx_answers(one, pixels[np.newaxis]),
        train.probabilities(one.served, fitted_test(one).images[:1]),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_of_the_card_open_and_are_not_blank(exported: Exported, name: str) -> None:
    for picture in ("loss.png", "confusion.png", "mistakes.png", "latency.png"):
        with Image.open(exported[name].folder / layout.CARD / picture) as image:
            assert image.format == "PNG"
            assert min(image.size) > 150
            assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 20


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_the_card_gives_the_figures_of_the_manifest(exported: Exported, name: str) -> None:
    one = exported[name]
    described = one.manifest
    page = (one.folder / layout.CARD / "README.md").read_text("utf-8")
    accuracy, worst = (
        described.precisions[0].accuracy,
        max(p.max_abs_difference for p in described.precisions[0].parity),
    )
    assert page.startswith(f"# {name}\n")
    assert f"{described.parameters:,} parameters" in page
    low, high = (100 * end for end in manifest.wilson_interval(accuracy.correct, 360))
    interval = f"({low:.1f} to {high:.1f} %, {accuracy.correct} of 360)"
    assert f"| accuracy | {accuracy.correct / 3.6:.1f} % {interval}, held-out" in page
    assert "| augmentation | shifted by up to " in page
    assert f"at most {worst:.1e}, all 360 labels equal, at batch sizes 1, 2, 3, 7, 32" in page
    assert f"{described.weights.epochs} epochs in" in page
    assert f"epoch {described.weights.best_epoch} kept" in page
    assert all(f"`{precision.file.name}`" in page for precision in described.precisions)
    assert all(f"- {deviation}\n" in page for deviation in described.deviations)
    for picture in ("loss.png", "confusion.png", "mistakes.png", "latency.png"):
        assert f"({picture})" in page
    assert "\n\n\n" not in page


def test_the_card_says_what_the_network_differs_from(exported: Exported) -> None:
    pages = {name: (one.folder / "card" / "README.md").read_text("utf-8") for name, one in exported.items()}
    assert "Differs from the paper:" in pages["lenet5-digits"]
    assert "Differs from the original:" in pages["simple_cnn-digits"]
    assert "Differs" not in pages["two_block_cnn-digits"]  # it does not


def test_confusion_counts_true_labels_by_row_and_answers_by_column() -> None:
    labels = np.array([0, 0, 1, 2, 2, 2])
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 0, 0]]
    assert card.confusion_matrix(labels, probabilities).tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]


@pytest.mark.slow
def test_of_several_starts_the_one_with_the_lowest_validation_loss_is_kept(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watcher(pipeline.Silent):
        def epoch(self, epoch: train.Epoch) -> None:
            seen.append(epoch.validation_loss)

    spec = catalog.find("simple_cnn")
    one = pipeline.export(spec, request(tmp_path, Recipe(1, seed=5, starts=3)), Watcher())
    weights = one.manifest.weights
    assert len(seen) == 3
    assert len(set(seen)) == 3
    assert (weights.seed, weights.starts, weights.start) == (5, 3, int(np.argmin(seen)))
    # What was published is that start's network: its validation loss is the lowest that was seen.
    validation = datasets.load("digits", seed=5, cache=Path()).validation.fitted(
        one.manifest.input, one.manifest.preprocessing
    )
    answers = train.probabilities(one.served, validation.images)
    right = answers[np.arange(len(answers)), validation.labels]
    assert -np.log(right).mean() == pytest.approx(min(seen), rel=1e-4)


@pytest.mark.slow  # two whole exports
def test_exporting_again_adds_versions_that_are_reproducible_and_leaves_the_first_untouched(
    scratch_repository: Path,
) -> None:
    folder = scratch_repository / "simple_cnn-digits"
    first = contents(folder / "1")
    for version in (2, 3):
        torch.rand(version)  # the state of torch's own generator does not matter
        again = pipeline.export(catalog.find("simple_cnn"), request(scratch_repository, Recipe(1, seed=3)))
        assert again.folder == folder / str(version)
        assert again.manifest.version == manifest.read(again.folder).version == version
        assert again.manifest.weights.seed == 3
        assert again.manifest.precisions[0].accuracy.split.endswith("seed 3")
    assert contents(folder / "1") == first
    second, third = contents(folder / "2"), contents(folder / "3")
    assert second["model.onnx"] == third["model.onnx"] != first["model.onnx"]  # bit for bit
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_unknown_weights_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(pipeline.UnknownWeightsError, match="no weights 'letters': neither digits, mnist"):
        pipeline.Request(tmp_path, weights="letters").require_applicable()
    with pytest.raises(pipeline.UnknownWeightsError, match="no weights 'letters': neither digits, mnist"):
        pipeline.export(catalog.find("lenet5"), request(tmp_path / "models", QUICK, weights="letters"))
    assert list(tmp_path.iterdir()) == []


class PlugPulledError(Exception):
    """Somebody pulled the plug."""


class Interrupting:
    """An observer that looks until a certain step, and then pulls the plug."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.seen: list[str] = []

    def step(self, what: str) -> None:
        self.seen.append(what)
        if what == self._at:
            raise PlugPulledError

    def images(self, done: int, total: int) -> None:
        pass

    def epoch(self, epoch: train.Epoch) -> None:
        self.step(f"epoch {epoch.number}")


STEPS = [
    "loading digits",
    "training",
    "epoch 1",
    "exporting to ONNX",
    "comparing with PyTorch",
    "making fp16",
    "making int8",
    "measuring latencies",
    "publishing",
]


@pytest.mark.parametrize("at", ["loading digits", "training", "epoch 1", "exporting to ONNX", "publishing"])
def test_an_interrupted_export_leaves_no_version(tmp_path: Path, at: str) -> None:
    observer = Interrupting(at)
    with pytest.raises(PlugPulledError):
        pipeline.export(catalog.find("simple_cnn"), request(tmp_path, QUICK), observer)
    assert observer.seen == STEPS[: STEPS.index(at) + 1]
    assert list(layout.newest(tmp_path)) == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], [".training-0"])
