"""Checkpoints as training scripts write them: where the state dict is found, and what nothing is made of."""

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from export.weights import checkpoint, loading, nearest
from export.weights.state_dict import WeightsError
from tests.export.weights.states import LENET, State, prefixed
from zoo import catalog


def note(content: object, path: Path, wanted: State) -> str:
    """Save and load, check the tensors, and return the line about what was found."""
    torch.save(content, path)
    found, loaded = first_note(path)
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())
    return found


def first_note(path: Path) -> tuple[str, loading.Loaded]:
    notes: list[str] = []
    loaded = loading.from_file(path, LENET, note=notes.append)
    return notes[0].removeprefix(f"{path.name}: "), loaded


@pytest.mark.parametrize(
    "name", ["a.pth.tar", "epoch=3.ckpt", "a.PTH", "pytorch_model.bin", "a.Pt", "A.PTH.TAR"]
)
def test_the_suffixes_of_training_scripts_are_taken(name: str, lenet: State, tmp_path: Path) -> None:
    found = note(lenet, tmp_path / name, lenet)
    assert found == "plain state dict, 10 of 10 tensors match lenet5"


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, "under 'state_dict',"),
        (lambda s: {"model": s, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}, "under 'model',"),
        (lambda s: {"model_state_dict": s, "loss": 0.5}, "under 'model_state_dict',"),
        (lambda s: {"net": s, "acc": 91.0}, "under 'net',"),
        (lambda s: {"weights": s}, "under 'weights',"),
        (lambda s: {"ema": s, "updates": 4}, "under 'ema',"),
        (lambda s: {"model": {"state_dict": s}}, "under 'model.state_dict',"),
        (lambda s: {"state_dict_ema": s}, "under 'state_dict_ema',"),
        (
            lambda s: {"state_dict_ema": {name: value * 0 for name, value in s.items()}, "state_dict": s},
            "under 'state_dict' ('state_dict_ema' not used),",
        ),
    ],
)
def test_the_state_dict_is_found_under_the_keys_of_training_scripts(
    wrap: Callable[[State], State], found: str, lenet: State, tmp_path: Path
) -> None:
    assert found in note(wrap(lenet), tmp_path / "a.pt", lenet)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "net.",
        "backbone.",
        "_orig_mod.",
        "module._orig_mod.",
        "model.backbone.",
        "student.",
    ],
)
def test_what_stands_before_all_names_is_removed(prefix: str, lenet: State, tmp_path: Path) -> None:
    found = note({"state_dict": prefixed(lenet, prefix)}, tmp_path / "a.pt", lenet)
    assert found == f"state dict under 'state_dict', prefix '{prefix}' removed, 10 of 10 tensors match lenet5"


def test_wrappers_of_pytorch_itself_are_undone(tmp_path: Path) -> None:
    network = LENET.network()
    wanted = network.state_dict()
    for wrapped in (nn.DataParallel(network), AveragedModel(network)):
        assert "removed, 10 of 10 tensors" in note(wrapped.state_dict(), tmp_path / "a.pt", wanted)


def test_arguments_and_numbers_of_numpy_beside_the_weights_are_passed_over(
    lenet: State, tmp_path: Path
) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), nested=argparse.Namespace(gpu=None)),
        "best": np.float64(91.2),
        "is_best": np.bool_(1),
        "dtype": np.dtype(np.float32),
        "confusion": np.eye(3),
    }
    path = tmp_path / "a.pth.tar"
    for new_format in (True, False):
        torch.save({"state_dict": lenet} | beside, path, _use_new_zipfile_serialization=new_format)
        assert first_note(path)[0].endswith("10 of 10 tensors match lenet5")
    content = path.read_bytes()  # as NumPy 1 wrote it
    assert content.count(b"numpy._core.multiarray") == 2
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert first_note(path)[0].endswith("10 of 10 tensors match lenet5")


class Forged:
    """Pickled, it is an object of NumPy's with a state that lies about its memory."""

    def __reduce__(self) -> tuple[Any, ...]:
        flags = 0  # of an object's dtype: as if its bytes were no pointer
        return np.dtype, ("O8",), (4, "|", None, None, None, -1, -1, flags, None)


def test_nothing_of_numpy_is_made_of_what_a_pickle_says(lenet: State, tmp_path: Path) -> None:
    pointer = (np._core.multiarray.scalar, (Forged(), b"\x10" * 8))  # type: ignore[attr-defined]

    class Scalar:
        def __reduce__(self) -> tuple[Any, ...]:
            return pointer

    assert "10 of 10" in note({"model": lenet, "best": Scalar()}, tmp_path / "a.pt", lenet)


def test_attributes_that_a_pickle_gives_a_dictionary_are_not_called(lenet: State, tmp_path: Path) -> None:
    class Dictionary:
        def __init__(self, **items: object) -> None:
            self.items = items

        def __reduce__(self) -> tuple[Any, ...]:
            return OrderedDict, (), {"get": 1, "items": 2, "keys": 3}, None, iter(self.items.items())

    assert "10 of 10" in note(Dictionary(model=Dictionary(**lenet)), tmp_path / "a.pt", lenet)


class Attribute:
    """Pickled, it asks for a name that stands beside one that is passed over."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.load, ("a.npy", None, True)


def test_other_names_of_the_same_libraries_are_refused(lenet: State, tmp_path: Path) -> None:
    torch.save({"model": lenet, "args": Attribute()}, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError, match=r"^a\.pt asks for numpy\.load; only tensors are taken from a file$"
    ):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused_as_what_it_is(tmp_path: Path) -> None:
    network = torch.jit.trace(LENET.network().eval(), torch.zeros(1, 1, 32, 32))
    torch.jit.save(network, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError,
        match=r"^a\.pt is a TorchScript archive, not a state dict: save model\.state_dict\(\) instead$",
    ):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: {"model": network, "epoch": 3}])
def test_a_pickled_module_is_refused_as_what_it_is(
    wrap: Callable[[nn.Module], object], new_format: bool, tmp_path: Path
) -> None:
    torch.save(
        wrap(nn.Sequential(nn.Linear(2, 2))), tmp_path / "a.pt", _use_new_zipfile_serialization=new_format
    )
    with pytest.raises(
        WeightsError,
        match=r"^a\.pt holds a whole pickled nn\.Module, which is code \(it asks for torch\.nn\."
        r"modules\.container\.Sequential\): save model\.state_dict\(\) instead$",
    ):
        checkpoint.read(tmp_path / "a.pt")


def test_an_archive_that_claims_to_span_several_disks_is_refused(lenet: State, tmp_path: Path) -> None:
    torch.save(lenet, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(b"PK\x06\x07") + 16] = 7  # of the end of a large archive: how many disks there are
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"^a\.pt is damaged or truncated, or holds no weights$"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_pickle_that_is_not_torchs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match=r"^a\.ckpt (is|holds|asks) ?"):
        checkpoint.read(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("name", "matched"),
    [("resnet34", "180 of its 182"), ("vgg16", "30 of its 32"), ("densenet121", "604 of its 606")],
)
def test_the_nearest_architecture_is_named_though_its_last_layer_differs(name: str, matched: str) -> None:
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None, num_classes=5)
    said = nearest.described(theirs.state_dict())
    assert said == f"the nearest of the catalog is {name}: {matched} tensors match"


def test_another_network_is_refused_with_the_nearest_architecture(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed(models.resnet18().state_dict(), "module.")}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError) as caught:
        loading.from_file(tmp_path / "a.ckpt", LENET)
    assert str(caught.value) == (
        "a.ckpt holds another network: it lacks c1.weight, c1.bias, c3.weight and 7 more and has also "
        "conv1.weight, bn1.weight, bn1.bias and 119 more; the nearest of the catalog is resnet18: 102 of its "
        "102 tensors match"
    )


def test_auxiliary_heads_are_counted_and_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = models.googlenet(weights=None, aux_logits=True, num_classes=3, init_weights=False).state_dict()
    torch.save({"model": state}, tmp_path / "a.pth")
    given = loading.Preprocessing(start="finetuned")
    notes: list[str] = []
    loading.from_file(tmp_path / "a.pth", catalog.find("googlenet"), given=given, note=notes.append)
    assert notes[0] == (
        f"a.pth: state dict under 'model', {len(state) - 20} of {len(state)} tensors match googlenet; "
        "the others are of auxiliary heads, which only help training"
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("best.pth.tar", "best"),
        ("Net.PT", "net"),
        ("epoch=3-step=9.ckpt", "epoch=3-step=9"),
        ("a.b.bin", "a.b"),
    ],
)
def test_the_stem_is_the_name_without_a_checkpoints_suffix(name: str, stem: str) -> None:
    assert checkpoint.stem(Path(name)) == stem
