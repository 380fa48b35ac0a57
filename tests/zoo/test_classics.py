from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models

from tests.zoo.networks import as_after_training
from zoo.catalog import find
from zoo.spec import InputSpec

FAN_OUT_STD = (2 / (128 * 3 * 3)) ** 0.5  # of the second convolution of a VGG-11, with 128 maps
NO_HEADS = {"aux_logits": False, "init_weights": False}
OPTIONS = {"googlenet": NO_HEADS, "inception_v3": NO_HEADS}
# The side torchvision's own documentation and layers demand; a ResNet takes any.
SMALLEST_PX = {
    "alexnet": 63,
    "vgg11": 32,
    "vgg19_bn": 32,
    "googlenet": 15,
    "inception_v3": 75,
    "densenet121": 29,
}
# Where torchvision pools to a fixed shape, only its own size compares; a mean is one at any size.
COMPARED_PX = {"alexnet": 224, "vgg11_bn": 224, "inception_v3": 75}


def torchvisions(name: str) -> nn.Module:
    factory: Callable[..., nn.Module] = getattr(models, name)
    with torch.device("meta"):
        return factory(weights=None, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "googlenet", "inception_v3", "resnet50", "densenet161"])
def test_state_dict_has_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours = find(name).network().state_dict()
    theirs = torchvisions(name).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11_bn", "googlenet", "inception_v3", "resnet18", "densenet121"]
)
def test_answers_equal_torchvisions_with_the_same_weights(name: str) -> None:
    torch.manual_seed(0)
    ours = as_after_training(name)
    theirs = torchvisions(name).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    side_px = COMPARED_PX.get(name, 48)
    images = torch.randn(2, 3, side_px, side_px)
    with torch.no_grad():
        answer, expected = ours(images), theirs(images)
    spread = expected.std().item()
    assert spread > 0
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5 * spread)
    assert (expected[0] - expected[1]).abs().max().item() > 1e-3 * spread  # two pictures, two answers


@pytest.mark.parametrize(("name", "side_px"), SMALLEST_PX.items())
def test_too_small_picture_is_refused_exactly_where_torchvision_fails(name: str, side_px: int) -> None:
    spec = find(name)
    with torch.device("meta"):
        smallest = spec.network(10, spec.input.resized(side_px, side_px)).eval()
        assert smallest(torch.empty(2, 3, side_px, side_px)).shape == (2, 10)
        with pytest.raises(RuntimeError, match=r"too small|greater than actual input size"):
            torchvisions(name).eval()(torch.empty(2, 3, side_px - 1, side_px - 1))
    expected = f"{name} needs at least {side_px}x{side_px} pixels, not {side_px}x{side_px - 1}"
    with pytest.raises(ValueError, match=expected):
        spec.network(10, spec.input.resized(side_px, side_px - 1))


def test_resnet_takes_a_single_pixel() -> None:
    spec = find("resnet18")
    network = spec.network(10, spec.input.resized(1, 1)).eval()
    assert network(torch.zeros(2, 3, 1, 1)).shape == (2, 10)


@pytest.mark.parametrize("name", ["googlenet", "resnet18"])
def test_first_weights_are_drawn_and_buffers_reset(name: str) -> None:
    torch.manual_seed(0)
    network = find(name).network(10)
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(value.isfinite().all() for value in network.state_dict().values())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked == 0
            assert bool((module.running_mean == 0).all() & (module.running_var == 1).all())
            assert bool((module.weight == 1).all() & (module.bias == 0).all())
    torch.manual_seed(0)
    again = find(name).network(10).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "convolution", "linear_std"),
    [("vgg11", "features.3", (2 / 512) ** 0.5), ("vgg11_bn", "features.4", 0.01)],
)
def test_vgg_starts_as_wide_as_it_should(name: str, convolution: str, linear_std: float) -> None:
    torch.manual_seed(0)
    spec = find(name)
    first = spec.network(10, spec.input.resized(32, 32)).state_dict()
    assert first[f"{convolution}.weight"].std().item() == pytest.approx(FAN_OUT_STD, rel=0.02)
    assert first["classifier.0.weight"].std().item() == pytest.approx(linear_std, rel=0.02)  # 512 inputs
    assert not first[f"{convolution}.bias"].any()
    assert not first["classifier.0.bias"].any()


def test_other_channels_change_the_first_convolution_only() -> None:
    spec = find("densenet121")
    one_channel = InputSpec(1, 32, 32, mean=(0.5,), std=(0.5,))
    with torch.device("meta"):
        grey = {name: value.shape for name, value in spec.network(10, one_channel).state_dict().items()}
        colour = {name: value.shape for name, value in spec.network(10).state_dict().items()}
    differing = {name for name in colour if grey[name] != colour[name]}
    assert differing == {"features.conv0.weight"}
    assert grey["features.conv0.weight"] == (64, 1, 7, 7)
