"""Which tensors of a checkpoint are the network's: beside other things, behind prefixes, under other keys."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from export.weights import loading
from export.weights.state_dict import WeightsError
from tests.export.weights.states import LENET, State, prefixed
from tests.zoo.networks import with_statistics
from zoo import catalog

RESNET = catalog.find("resnet18")


def zeroed(state: State) -> State:
    return {name: value * 0 for name, value in state.items()}


def read(content: object, path: Path, wanted: State) -> str:
    """Save and load, check the tensors, and return what is said of where they were."""
    torch.save(content, path)
    notes: list[str] = []
    network = loading.from_file(path, LENET, note=notes.append).network
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())
    return notes[0].removeprefix(f"{path.name}: ").removesuffix(", 10 of 10 tensors match lenet5")


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"epoch": 3}, "'epoch' beside it not used"),
        ({"epoch": torch.tensor(3), "best": 0.5}, "'epoch', 'best' beside it not used"),
        ({"a": 1, "b": "c", "d": None, "e": [1]}, "'a', 'b', 'd' and 1 more beside it not used"),
        ({"accuracy": np.float64(0.5)}, "'accuracy' beside it not used"),
        ({"optimizer": {"param_groups": [{"lr": 0.1}]}}, "'optimizer' beside it not used"),
    ],
)
def test_what_is_no_tensor_of_a_part_is_left_out_and_named(
    beside: State, said: str, lenet: State, tmp_path: Path
) -> None:
    assert read(lenet | beside, tmp_path / "a.pt", lenet) == f"plain state dict, {said}"
    assert read({"model": prefixed(lenet, "module.") | beside}, tmp_path / "a.pt", lenet) == (
        f"state dict under 'model', prefix 'module.' removed, {said}"
    )


def test_numbers_by_numbers_are_left_out(lenet: State, tmp_path: Path) -> None:
    assert read(lenet | {0: 1}, tmp_path / "a.pt", lenet) == "plain state dict"


COUNTS: dict[str, Callable[[torch.Tensor], object]] = {
    "int": int,
    "text": str,
    "none": lambda _: None,
    "of_numpy": lambda value: np.int64(int(value)),
    "float": torch.Tensor.float,
    "half": torch.Tensor.half,
    "list": lambda value: value.reshape(1),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_counters_of_batches_may_be_anything(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = with_statistics(models.resnet18(num_classes=3))
    state = {
        name: COUNTS[kind](value) if name.endswith("num_batches_tracked") else value
        for name, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "a.pt")
    loaded = loading.from_file(tmp_path / "a.pt", RESNET)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.network(images), network(images))


@pytest.mark.parametrize("key", ["network", "params", "teacher", "student", "best_model", "anything else"])
def test_the_one_state_dict_of_a_file_is_found_under_any_key(key: str, lenet: State, tmp_path: Path) -> None:
    content = {"epoch": 3, key: prefixed(lenet, "module."), "center": {"mean": torch.zeros(3)}}
    assert read(content, tmp_path / "a.pt", lenet) == (f"state dict under {key!r}, prefix 'module.' removed")


def test_of_several_the_usual_key_is_taken_and_the_others_are_named(lenet: State, tmp_path: Path) -> None:
    content = {"params_ema": zeroed(lenet), "teacher": zeroed(lenet), "params": lenet}
    assert read(content, tmp_path / "a.pt", lenet) == (
        "state dict under 'params' ('params_ema', 'teacher' not used)"
    )


def test_several_under_other_keys_are_refused_by_name(lenet: State, tmp_path: Path) -> None:
    torch.save({"student": lenet, "teacher": zeroed(lenet), "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError, match=r"^a\.pt holds several state dicts, under 'student', 'teacher': save one alone$"
    ):
        loading.from_file(tmp_path / "a.pt", LENET)


def test_the_state_of_a_loss_or_a_metric_beside_the_network_is_left_out(lenet: State, tmp_path: Path) -> None:
    beside = {"criterion.weight": torch.ones(10), "accuracy.confusion": torch.zeros(10, 10)}
    content = {"state_dict": prefixed(lenet, "model.") | beside}
    assert read(content, tmp_path / "a.ckpt", lenet) == (
        "state dict under 'state_dict', prefix 'model.' removed, "
        "'criterion.weight', 'accuracy.confusion' beside it not used"
    )


def test_averages_beside_the_weights_are_left_out(lenet: State, tmp_path: Path) -> None:
    both = prefixed(lenet, "net.") | prefixed(zeroed(lenet), "net_ema.module.")
    assert read(both, tmp_path / "a.pt", lenet).startswith(
        "plain state dict, prefix 'net.' removed, 'net_ema."
    )
    shared = prefixed(lenet, "ema_model.") | prefixed(lenet, "online.") | {"step": torch.tensor(3)}
    assert "prefix 'online.' removed" in read(shared, tmp_path / "a.pt", lenet)  # one storage for both


def test_several_networks_in_one_state_dict_are_refused_by_name(lenet: State, tmp_path: Path) -> None:
    torch.save(prefixed(lenet, "a.encoder_q.") | prefixed(lenet, "a.encoder_k."), tmp_path / "a.pt")
    with pytest.raises(
        WeightsError,
        match=r"^a\.pt holds the weights of several networks, behind 'a\.encoder_k\.', 'a\.encoder_q\.': ",
    ):
        loading.from_file(tmp_path / "a.pt", LENET)


def test_a_network_that_is_part_of_a_larger_one_is_not_taken_for_the_whole(
    lenet: State, tmp_path: Path
) -> None:
    larger = prefixed(lenet, "encoder.") | {"head.weight": torch.ones(3, 10), "head.bias": torch.ones(3)}
    torch.save(larger, tmp_path / "a.pt")
    with pytest.raises(WeightsError) as caught:
        loading.from_file(tmp_path / "a.pt", LENET)
    assert str(caught.value) == (
        "a.pt holds another network: it lacks c1.weight, c1.bias, c3.weight and 7 more and has also "
        "encoder.c1.weight, encoder.c1.bias, encoder.c3.weight and 9 more; the nearest of the catalog is "
        "lenet5: 10 of its 10 tensors match behind 'encoder.'"
    )


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_what_pytorch_wraps_single_layers_in_is_no_part_of_a_name(
    wrapper: str, lenet: State, tmp_path: Path
) -> None:
    wrapped = {name.replace("c3.", f"c3.{wrapper}."): value for name, value in lenet.items()}
    assert read(wrapped, tmp_path / "a.pt", lenet) == "plain state dict"


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    state = models.resnet18(num_classes=3).state_dict()
    torch.save(state | {"bn1.running_var": -torch.ones(64)}, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError, match=r"^a\.pt: bn1\.running_var is a variance, and holds a number below"
    ):
        loading.from_file(tmp_path / "a.pt", RESNET)
