from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.spec import InputSpec, ModelSpec

GREY = InputSpec(1, 8, 6, mean=(0.5,), std=(0.25,))


def linear(num_classes: int, input_spec: InputSpec) -> nn.Module:
    pixels = input_spec.channels * input_spec.height * input_spec.width
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, num_classes))


def test_resized_input_keeps_channels_mean_and_std() -> None:
    assert GREY.resized(16, 12) == InputSpec(1, 16, 12, mean=(0.5,), std=(0.25,))
    assert GREY.height == 8


@pytest.mark.parametrize(
    ("channels", "height", "mean", "std", "message"),
    [
        (3, 8, (0.5,), (0.5, 0.5, 0.5), "mean has 1 numbers for 3 channels"),
        (1, 8, (0.5,), (0.5, 0.5), "std has 2 numbers for 1 channels"),
        (1, 8, (0.5,), (0.0,), "std must be above zero"),
        (1, 0, (0.5,), (0.5,), "1x0x8 .* is empty"),
        (0, 8, (), (), "0x8x8 .* is empty"),
    ],
)
def test_senseless_input_is_refused(
    channels: int, height: int, mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec(channels, height, 8, mean=mean, std=std)


def test_input_below_the_smallest_side_is_refused_by_name_and_size() -> None:
    GREY.require_at_least(6, "toy")
    with pytest.raises(ValueError, match="toy needs at least 7x7 pixels, not 8x6"):
        GREY.require_at_least(7, "toy")


def test_network_fills_in_the_rows_own_labels_and_input() -> None:
    spec = ModelSpec("toy", linear, None, GREY, num_classes=10, parameters=490, deviations=(), small_px=4)
    assert spec.network()(torch.zeros(2, 1, 8, 6)).shape == (2, 10)
    assert spec.network(num_classes=3)(torch.zeros(2, 1, 8, 6)).shape == (2, 3)
    assert spec.network(input=GREY.resized(4, 4))(torch.zeros(2, 1, 4, 4)).shape == (2, 10)


def test_network_without_labels_is_refused() -> None:
    spec = ModelSpec("toy", linear, None, GREY, num_classes=10, parameters=490, deviations=(), small_px=4)
    with pytest.raises(ValueError, match="toy needs at least one label, not 0"):
        spec.network(num_classes=0)


RGB = InputSpec(3, 8, 6, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
SPEC = ModelSpec("toy", linear, None, RGB, num_classes=10, parameters=490, deviations=(), small_px=4)


def test_small_pictures_get_the_small_input_and_others_the_papers() -> None:
    assert [(SPEC.input_for(3, side).height, SPEC.input_for(3, side).width) for side in (8, 96, 97, 500)] == [
        (4, 4), (4, 4), (RGB.height, RGB.width), (RGB.height, RGB.width),
    ]  # fmt: skip


def test_grey_pictures_get_one_channel_with_the_averages() -> None:
    found = SPEC.input_for(1, 500)
    assert (found.channels, found.mean, found.std) == (1, (0.2,), (0.5,))
    assert SPEC.input_for(3, 500) == RGB


def test_a_network_for_grey_pictures_stays_one() -> None:
    spec = ModelSpec("toy", linear, None, GREY, num_classes=10, parameters=490, deviations=(), small_px=4)
    assert spec.input_for(3, 500) == GREY
