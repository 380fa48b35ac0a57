"""Weights from elsewhere are in the right network, or refused in one line."""

import argparse
import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from export.graph import tracing, verification
from export.weights import loading
from export.weights.preprocessing import Preprocessing
from modelzoo.v1 import manifest_pb2
from tests.export.weights.states import LENET, State
from tests.zoo.networks import with_statistics
from zoo import catalog
from zoo.weights import ImageNetWeights, imagenet

RESNET = catalog.find("resnet18")


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """torchvision's own network, with the statistics of a trained one."""
    torch.manual_seed(0)
    return with_statistics(models.resnet18(weights=None))


def published(path: Path) -> ImageNetWeights:
    """torchvision's ResNet-18, published in another place and with other numbers."""
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    renamed = path.rename(path.with_name(f"resnet18-{digits}.pth"))
    found = imagenet("resnet18")
    assert found is not None
    return dataclasses.replace(found, url=renamed.as_uri())


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def refused(path: Path, message: str, **given: Any) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(loading.WeightsError, match=message) as caught:
        loading.from_file(path, LENET, **given)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert sorted(path.parent.iterdir()) == before


def test_published_weights_answer_as_torchvisions_own_network(resnet: nn.Module, tmp_path: Path) -> None:
    origin = published(saved(resnet.state_dict(), tmp_path / "new.pth"))
    loaded = loading.from_imagenet(RESNET, origin, tmp_path / "kept")
    assert not loaded.network.training
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.network(images), resnet(images))
    assert loaded.sha256 == hashlib.sha256((tmp_path / "kept" / origin.file_name).read_bytes()).hexdigest()
    assert loaded.source == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    assert loaded.accuracy_ratio == 0.69758
    assert (loaded.labels[0], len(loaded.labels)) == ("tench", 1000)
    assert loaded.input_spec == RESNET.input
    assert loaded.resize_shorter_px == 256
    assert loaded.interpolation == manifest_pb2.INTERPOLATION_BILINEAR


def test_a_row_without_published_weights_is_refused_by_name() -> None:
    with pytest.raises(loading.WeightsError, match=r"^torchvision has no ImageNet weights for zfnet$"):
        loading.from_imagenet(catalog.find("zfnet"))


def test_what_cannot_be_fetched_is_refused_in_the_same_words(tmp_path: Path) -> None:
    found = imagenet("resnet18")
    assert found is not None
    absent = dataclasses.replace(found, url=(tmp_path / "resnet18-00000000.pth").as_uri())
    with pytest.raises(loading.WeightsError, match=r"resnet18-00000000\.pth cannot be fetched"):
        loading.from_imagenet(RESNET, absent, tmp_path)


def test_the_published_file_is_recognised_and_gets_its_own_normalisation(
    resnet: nn.Module, tmp_path: Path
) -> None:
    origin = published(saved(resnet.state_dict(), tmp_path / "new.pth"))
    halves = RESNET.input.resized(64, 64)
    halves = dataclasses.replace(halves, mean=(0.5,) * 3, std=(0.5,) * 3)
    origin = dataclasses.replace(origin, input=halves, resize_shorter_px=73)
    path = tmp_path / "mine.pth"
    (tmp_path / origin.file_name).rename(path)
    known = loading.from_file(path, RESNET, published=origin)
    assert (known.input_spec, known.resize_shorter_px, known.accuracy_ratio) == (halves, 73, 0.69758)
    assert (known.labels[0], known.source) == ("tench", "torchvision ResNet18_Weights.IMAGENET1K_V1")
    # The accuracy that the source states is not that of another size.
    other = loading.from_file(path, RESNET, given=Preprocessing(crop=96), published=origin)
    assert other.input_spec == halves.resized(96, 96)
    assert (other.resize_shorter_px, other.accuracy_ratio) == (96, None)
    # Changed a little, it is an unknown file.
    state = dict(resnet.state_dict())
    state["fc.bias"] = state["fc.bias"] + 1
    unknown = loading.from_file(saved(state, path), RESNET, published=origin, folder=tmp_path)
    assert (unknown.input_spec, unknown.labels[0], unknown.source) == (RESNET.input, "0", "mine.pth")


SAVE: dict[str, Callable[[State, Path], Path]] = {
    "plain.pt": saved,
    "plain.pth": saved,
    "old.pth": lambda state, path: (
        torch.save(state, path, _use_new_zipfile_serialization=False) or path  # type: ignore[func-returns-value]
    ),
    "wrapped.pt": lambda state, path: saved(
        {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}, path
    ),
    "wrapped_too.pt": lambda state, path: saved({"model": state}, path),
    "parallel.pt": lambda state, path: saved({f"module.{name}": v for name, v in state.items()}, path),
    "plain.safetensors": lambda state, path: safetensors.torch.save_file(state, path) or path,  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("name", SAVE)
def test_a_state_dict_is_read_however_it_was_saved(name: str, lenet: State, tmp_path: Path) -> None:
    path = SAVE[name](lenet, tmp_path / name)
    loaded = loading.from_file(path, LENET)
    assert all(torch.equal(value, lenet[key]) for key, value in loaded.network.state_dict().items())
    assert loaded.labels == tuple("0123456789")
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.source, loaded.accuracy_ratio, loaded.input_spec) == (name, None, LENET.input)


def test_half_precision_becomes_single(lenet: State, tmp_path: Path) -> None:
    halves = {name: value.bfloat16() for name, value in lenet.items()}
    loaded = loading.from_file(saved(halves, tmp_path / "half.pt"), LENET)
    for name, value in loaded.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, halves[name].float())


def test_counters_that_old_checkpoints_lack_are_not_missed(resnet: nn.Module, tmp_path: Path) -> None:
    old = {name: v for name, v in resnet.state_dict().items() if not name.endswith("num_batches_tracked")}
    loaded = loading.from_file(saved(old, tmp_path / "old.pth"), RESNET)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.network(images), resnet(images))


def test_the_labels_are_the_files_and_another_size_makes_another_network(tmp_path: Path) -> None:
    square = LENET.input.resized(40, 40)
    state = LENET.network(3, square).state_dict()
    path = saved(state, tmp_path / "three.pt")
    names = tmp_path / "labels.txt"
    names.write_text("\ufeffKälte\nWärme\n  Licht \n", "utf-8")
    loaded = loading.from_file(path, LENET, names, Preprocessing(crop=40, resize=48))
    assert loaded.labels == ("Kälte", "Wärme", "Licht")
    assert (loaded.input_spec, loaded.resize_shorter_px) == (square, 48)
    assert loaded.network(torch.zeros(2, 1, 40, 40)).shape == (2, 3)
    assert loading.from_file(path, LENET, given=Preprocessing(crop=40)).labels == ("0", "1", "2")


def test_a_loaded_network_is_exported_and_answers_the_same(lenet: State, tmp_path: Path) -> None:
    loaded = loading.from_file(saved(lenet, tmp_path / "lenet.pt"), LENET)
    served = tracing.ServedNetwork(loaded.network, loaded.input_spec)
    tracing.to_onnx(served, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    with torch.no_grad():
        expected = served(torch.tensor(images)).numpy()
    answers = verification.open_on_cpu(tmp_path / "model.onnx")(images)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


def with_(state: State, **changed: torch.Tensor) -> State:
    return state | {name.replace("__", "."): value for name, value in changed.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"a\n\x1b[2Jb": torch.zeros(2)}, r"it has also a  \[2Jb; the nearest"),
        (
            lambda s: without(s, "f6.bias"),
            r"it lacks f6\.bias; the nearest of the catalog is lenet5: 9 of its 10 tensors match$",
        ),
        (lambda s: with_(s, f7__bias=torch.zeros(3)), r"it has also f7\.bias; the nearest .* 10 of its 10 "),
        (
            lambda s: {f"own_{name}": value for name, value in s.items()},
            r"it lacks c1\.weight, c1\.bias, c3\.weight and 7 more and has also own_c1\.weight, .*; "
            r"no architecture of the catalog has any of its tensors$",
        ),
        (lambda s: with_(s, c3__bias=torch.zeros(17)), r"it has c3\.bias of 17, not 16; the nearest"),
        (lambda s: with_(s, c1__weight=torch.zeros(6, 3, 5, 5)), r"has c1\.weight of 6x3x5x5, not 6x1x5x5; "),
        (
            lambda s: with_(s, output__bias=torch.zeros(12)),
            r"has output\.weight of 10x84, not 12x84; the near",
        ),
        (lambda s: with_(s, output__bias=torch.zeros(1)), r"has 1 outputs; a classifier needs two"),
        (lambda s: with_(s, f6__bias=torch.full((84,), torch.nan)), r"f6\.bias holds a number that is"),
        (lambda s: with_(s, c1__bias=torch.tensor([0, 0, 0, 0, 0, torch.inf])), r"c1\.bias holds a number"),
        (lambda s: with_(s, c1__bias=torch.full((6,), 1e300, dtype=torch.float64)), r"c1\.bias holds a num"),
        (lambda s: with_(s, c1__bias=torch.zeros(6, dtype=torch.int64)), r"c1\.bias is torch\.int64, not"),
        (lambda s: with_(s, c1__bias=torch.zeros(6).to_sparse()), r"c1\.bias is sparse"),
        (lambda s: with_(s, c1__bias=torch.empty(6, device="meta")), r"c1\.bias is sparse, or has no"),
        (lambda s: with_(s, output__bias=torch.zeros(1).expand(1 << 40)), r"claims more numbers than it"),
        (lambda s: {"epoch": 3}, r"holds no state dict: epoch is no tensor of torch's$"),
        (lambda s: s | {0: torch.zeros(2)}, r"holds no state dict: 1 of its names are no text$"),
        (lambda s: {"state_dict": {}}, r"holds no state dict"),
        (lambda s: {}, r"holds no state dict"),
        (lambda s: list(s.values()), r"holds no state dict"),
        (lambda s: torch.zeros(3), r"holds no state dict"),
        (
            lambda s: LENET.network(),
            r"a whole pickled nn\.Module, which is code \(it asks for zoo\.lenet\.LeNet5\): save model",
        ),
        (
            lambda s: {"args": argparse.Namespace(lr=1), "step": 3},
            r"holds no state dict: args, step are no tensors of torch's$",
        ),
        (
            lambda s: {"model": {name: value.numpy() for name, value in s.items()}},
            r"holds no state dict: c1\.weight, c1\.bias, c3\.weight and 7 more are no tensors of torch's$",
        ),
        (lambda s: {"model": s, "join": os.path.join}, r"asks for posixpath\.join; only tensors are taken"),
    ],
)
def test_what_is_not_this_networks_state_dict_is_refused_in_one_line(
    change: Callable[[State], object], message: str, lenet: State, tmp_path: Path
) -> None:
    refused(saved(change(lenet), tmp_path / "weights.pt"), message)


class Command:
    """Pickled, it is a command that unpickling runs."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_none(
    new_format: bool, lenet: State, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(
        lenet | {"command": Command(tmp_path / "ran")}, path, _use_new_zipfile_serialization=new_format
    )
    refused(path, r"asks for posix\.system; only tensors are taken")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["plain.pt", "old.pth", "plain.safetensors"])
@pytest.mark.parametrize("kept_ratio", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(name: str, kept_ratio: float, lenet: State, tmp_path: Path) -> None:
    path = SAVE[name](lenet, tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept_ratio)])
    refused(path, r"is damaged or truncated, or holds no weights$")


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors"])
def test_a_text_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("just a text\n" * 100)
    refused(tmp_path / name, r"is damaged or truncated, or holds no weights$|is no pickle of torch's")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pt", r"^absent\.pt cannot be read: No such file")
    refused(tmp_path / "absent.h5", r"^absent\.h5 is none of \.pt, \.pth, \.pth\.tar, \.ckpt, \.bin, \.saf")
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", r"^folder\.pt cannot be read: not a regular file")
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", r"^pipe\.pt cannot be read: not a regular file")
    with (tmp_path / "huge.pt").open("wb") as stream:
        stream.truncate(1 << 31)  # a hole
    refused(tmp_path / "huge.pt", r"^huge\.pt is larger than 2 GiB$")


def test_labels_that_are_not_as_many_as_the_outputs_are_refused(lenet: State, tmp_path: Path) -> None:
    path = saved(lenet, tmp_path / "weights.pt")
    names = tmp_path / "labels.txt"
    names.write_text("".join(f"{number}\n" for number in range(9)))
    refused(path, r"^weights\.pt has 10 outputs, but there are 9 labels$", labels_path=names)
    with pytest.raises(loading.WeightsError, match=r"^no\.txt cannot be read: No such file"):
        loading.from_file(path, LENET, tmp_path / "no.txt")


def test_an_input_too_small_for_the_network_is_refused(lenet: State, tmp_path: Path) -> None:
    path = saved(lenet, tmp_path / "weights.pt")
    with pytest.raises(loading.WeightsError, match=r"^lenet5 needs at least 32x32 pixels, not 8x8$"):
        loading.from_file(path, LENET, given=Preprocessing(crop=8))


def test_weights_for_grey_pictures_make_a_network_for_them(tmp_path: Path) -> None:
    grey = RESNET.input_for(1, 224)
    path = saved(RESNET.network(4, grey).state_dict(), tmp_path / "grey.pt")
    loaded = loading.from_file(path, RESNET)
    assert loaded.input_spec == grey
    assert loaded.network(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    given = loading.from_file(path, RESNET, given=Preprocessing(mean=(0.5,), std=(0.25,)))
    assert (given.input_spec.mean, given.input_spec.std) == ((0.5,), (0.25,))
