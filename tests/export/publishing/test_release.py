"""What is published passed its gate, or says that nobody could ask it; what did not is left out and named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from artifact import golden, layout, manifest
from artifact.errors import GoldenError, ManifestError
from export import pipeline
from export.candidate import Candidate, ReleaseOptions
from export.data import datasets
from export.data.datasets import Split
from export.graph import tracing
from export.publishing import release
from export.training import train
from modelzoo.v1 import manifest_pb2
from zoo import catalog
from zoo.spec import InputSpec

INPUT = InputSpec(1, 4, 4, mean=(0.0,), std=(1 / 255,))  # whole numbers: every sum in float32 is exact


class Narrow(nn.Module):
    """Tells bright from dark by differences that fewer bits cannot hold beside a large constant."""

    def __init__(self, constant: float = 300.0, scale: float = 1.0) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 2, kernel_size=1)
        self.answer = nn.Linear(32, 2)
        with torch.no_grad():
            self.look.weight.copy_(torch.tensor([scale, -scale]).reshape(2, 1, 1, 1))
            self.look.bias.fill_(constant * scale)
            sums = torch.tensor([[1.0] * 16 + [0.0] * 16, [0.0] * 16 + [1.0] * 16])
            self.answer.weight.copy_(sums / (128 * scale))
            self.answer.bias.copy_(-16 / 128 * torch.tensor([constant + 127.5, constant - 127.5]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.answer(torch.relu(self.look(pixels)).flatten(1))
        return logits


def candidate(network: Narrow | None = None, **options: object) -> Candidate:
    """A network that is always right, at least in fp32."""
    served = tracing.ServedNetwork(network or Narrow(), INPUT).eval()
    random = np.random.default_rng(0)
    dark, bright = random.integers(120, 127, (100, 4, 4, 1)), random.integers(129, 136, (100, 4, 4, 1))
    images = np.concatenate([bright, dark]).astype(np.uint8)
    labels = np.repeat([0, 1], 100)
    split = Split(images, labels)
    one = Candidate(
        description=manifest_pb2.Manifest(
            name="narrow-squares",
            version=1,
            architecture="narrow",
            parameters=70,
            input=manifest_pb2.Input(height=4, width=4, channels=1, mean=[0.0], std=[1 / 255]),
            preprocessing=manifest_pb2.Preprocessing(
                resize_shorter_px=4, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
            ),
            weights=manifest_pb2.Weights(origin=manifest_pb2.ORIGIN_LOADED, source="by hand"),
            reference="PyTorch",
        ),
        labels=("bright", "dark"),
        write=lambda path: tracing.to_onnx(served, path),
        answer=lambda images: train.probabilities(served, images),
        held_out=split,
        held_out_name="grey squares",
        chosen_on=split,
        pictures=images,
    )
    return dataclasses.replace(one, **options)


def publish(
    one: Candidate, repository: Path, *precisions: str, ungated: bool = False
) -> tuple[Path, manifest_pb2.Manifest]:
    folder = release.release(one, ReleaseOptions(repository, precisions, ungated), lambda _: None)
    described = manifest.read(folder)
    manifest.check_files(described, folder)
    return folder, described


def test_precisions_that_are_as_good_are_published_with_their_figures(tmp_path: Path) -> None:
    folder, described = publish(candidate(), tmp_path, "fp32", "fp16", "int8")
    assert [precision.name for precision in described.precisions] == ["fp32", "fp16", "int8"]
    for precision in described.precisions:
        assert (precision.accuracy.correct, precision.accuracy.images) == (200, 200)
        assert [latency.batch_size for latency in precision.latencies] == [1, 2, 4, 8, 16]
        assert not precision.ungated
    assert described.precisions[2].agreement == manifest_pb2.Agreement(images=200, same=200)
    assert described.macs == 4 * 4 * 2 + 32 * 2
    assert described.machine.threads >= 1
    assert list(golden.read(folder / layout.GOLDEN).own) == ["int8"]


def test_a_precision_that_loses_too_much_is_left_out_and_the_manifest_says_why(tmp_path: Path) -> None:
    folder, described = publish(candidate(Narrow(constant=60_000.0)), tmp_path, "fp32", "fp16", "int8")
    assert "int8" not in [precision.name for precision in described.precisions]
    [reason] = [refusal.reason for refusal in described.refusals if refusal.precision == "int8"]
    assert reason.startswith("int8: ")
    assert reason.endswith("points under fp32; 1.0 allowed")
    assert not (folder / "model.int8.onnx").exists()
    assert reason in (folder / "card/README.md").read_text()


def test_ungated_publishes_it_all_the_same_and_says_so(tmp_path: Path) -> None:
    folder, described = publish(candidate(Narrow(constant=60_000.0)), tmp_path, "fp32", "int8", ungated=True)
    [int8] = [precision for precision in described.precisions if precision.name == "int8"]
    assert int8.ungated
    assert int8.accuracy.correct < 198
    assert (folder / "model.int8.onnx").exists()
    assert "published all the same" in (folder / "card/README.md").read_text()


def test_int8_without_pictures_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(release.NoPicturesError, match="--calibration"):
        publish(candidate(held_out=None, chosen_on=None, pictures=None), tmp_path / "zoo", "fp32", "int8")
    assert list(tmp_path.iterdir()) == []


def test_without_labels_the_gate_asks_how_often_the_label_is_fp32s(tmp_path: Path) -> None:
    one = candidate(held_out=None, chosen_on=None)
    _, described = publish(one, tmp_path, "fp32", "fp16", "int8")
    fp32, fp16, int8 = described.precisions
    assert not any(precision.HasField("accuracy") for precision in described.precisions)
    assert fp16.agreement.images == int8.agreement.images == 200
    assert not fp32.HasField("agreement")


def test_without_pictures_fp16_has_no_gate_to_pass(tmp_path: Path) -> None:
    blind = {"held_out": None, "chosen_on": None, "pictures": None}
    _, described = publish(candidate(**blind), tmp_path, "fp32", "fp16")
    assert [refusal.reason for refusal in described.refusals] == ["fp16: no pictures to judge it by"]
    folder, described = publish(candidate(**blind), tmp_path, "fp32", "fp16", ungated=True)
    assert [precision.ungated for precision in described.precisions] == [False, True]
    assert "accuracy | not measured" in (folder / "card/README.md").read_text()


def test_labels_that_are_not_as_many_as_the_outputs_are_refused(tmp_path: Path) -> None:
    one = candidate(labels=("bright", "dark", "neither"))
    with pytest.raises(tracing.GraphError, match="the network has 2 outputs, but there are 3 labels"):
        publish(one, tmp_path, "fp32")
    assert list(layout.newest(tmp_path)) == []


def test_a_file_that_answers_otherwise_than_the_reference_is_not_published(tmp_path: Path) -> None:
    answer: Callable[[np.ndarray], np.ndarray] = candidate().answer
    one = candidate(answer=lambda images: answer(images)[:, ::-1])
    with pytest.raises(GoldenError, match="batch size 1: answers differ from the reference's"):
        publish(one, tmp_path, "fp32")
    assert list(layout.newest(tmp_path)) == []


def test_a_precision_that_cannot_be_made_is_left_out_with_the_reason(tmp_path: Path) -> None:
    _, described = publish(candidate(Narrow(scale=2.0**17)), tmp_path, "fp32", "fp16")
    assert [precision.name for precision in described.precisions] == ["fp32"]
    [refusal] = described.refusals
    assert refusal.reason.startswith("fp16: ")
    assert "65504" in refusal.reason


def test_answers_that_a_server_would_refuse_are_not_published_even_ungated(tmp_path: Path) -> None:
    one = candidate(Narrow(constant=8192.0))  # around which half precision has steps of eight
    _, described = publish(one, tmp_path, "fp32", "fp16", ungated=True)
    assert [precision.name for precision in described.precisions] == ["fp32"]
    [refusal] = described.refusals
    assert refusal.reason.startswith("fp16: probabilities differ from PyTorch's by up to ")
    assert refusal.reason.endswith("; 0.01 allowed")


def test_a_name_that_no_model_may_have_is_refused_before_the_training(tmp_path: Path) -> None:
    class Untrained(pipeline.Silent):
        def step(self, what: str) -> None:
            raise AssertionError(what)

    with pytest.raises(ManifestError, match="'My Net' is not a model's name"):
        pipeline.export(catalog.find("lenet5"), pipeline.Request(tmp_path, name="My Net"), Untrained())


def test_random_weights_are_never_called_trained(tmp_path: Path) -> None:
    spec = catalog.find("lenet5")
    one = pipeline.export(spec, pipeline.Request(tmp_path, "random"))
    assert one.folder == tmp_path / "lenet5-random" / "1"
    assert one.manifest.weights.origin == manifest_pb2.ORIGIN_RANDOM
    assert [precision.name for precision in one.manifest.precisions] == ["fp32"]
    assert not one.manifest.precisions[0].HasField("accuracy")
    page = (one.folder / "card/README.md").read_text()
    assert "random: nothing was trained" in page
    assert "loss.png" not in page


@pytest.mark.slow  # all three precisions, ungated
def test_weights_from_a_file_are_published_with_their_labels_and_hash(tmp_path: Path) -> None:
    spec = catalog.find("simple_cnn")
    torch.manual_seed(0)
    torch.save(spec.network().state_dict(), tmp_path / "mine.pt")
    (tmp_path / "words.txt").write_text("".join(f"digit {digit}\n" for digit in range(10)))
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for index in range(30):
            pixels = datasets.load("digits", 0, tmp_path).test.images[index, :, :, 0]
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{index}.png")
    request = pipeline.Request(
        tmp_path / "zoo",
        weights=str(tmp_path / "mine.pt"),
        labels=tmp_path / "words.txt",
        calibration=tmp_path / "pictures",
        precisions=("fp32", "fp16", "int8"),
        ungated=True,
    )
    one = pipeline.export(spec, request)
    assert one.folder == tmp_path / "zoo" / "simple_cnn-mine" / "1"
    weights = one.manifest.weights
    assert (weights.origin, weights.source) == (manifest_pb2.ORIGIN_LOADED, "mine.pt")
    assert weights.sha256 == manifest.describe_file(tmp_path / "mine.pt").sha256
    assert manifest.read_labels(one.manifest, one.folder)[7] == "digit 7"
    assert [precision.agreement.images for precision in one.manifest.precisions] == [0, 60, 60]


def test_without_pictures_the_proof_is_on_made_ones_that_differ_in_label(tmp_path: Path) -> None:
    one = candidate(held_out=None, chosen_on=None, pictures=None)
    folder, described = publish(one, tmp_path)
    assert [(parity.batch_size, parity.images) for parity in described.precisions[0].parity] == [
        (size, 32) for size in golden.BATCH_SIZES
    ]
    stored = golden.read(folder / layout.GOLDEN)
    assert len(stored.images) == release.GOLDEN_IMAGES
    assert len({image.tobytes() for image in stored.images}) == release.GOLDEN_IMAGES
    assert (np.bincount(stored.probabilities.argmax(axis=1)) >= 2).all()
    again, _ = publish(candidate(held_out=None, chosen_on=None, pictures=None), tmp_path)
    assert (again / layout.GOLDEN).read_bytes() == (folder / layout.GOLDEN).read_bytes()


@pytest.mark.slow  # 3 s
def test_pictures_that_are_made_fit_into_the_golden_file_at_any_size() -> None:
    one = candidate(
        held_out=None,
        chosen_on=None,
        pictures=None,
        answer=lambda images: np.eye(2, dtype=np.float32)[[0] * len(images)],
    )
    side_px = manifest.MAX_SIDE_PX
    one.description.input.CopyFrom(manifest_pb2.Input(height=side_px, width=side_px, channels=3))
    assert 0 < release._proof(one).images.nbytes < golden.MAX_BYTES
