from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.catalog import find

NAMES = ("simple_cnn", "two_block_cnn")


def shapes(name: str) -> list[tuple[int, ...]]:
    spec = find(name)
    x = torch.zeros(1, 1, spec.input.height, spec.input.width)
    seen = []
    for layer in spec.network().eval().children():
        x = layer(x)
        if not seen or tuple(x.shape) != seen[-1]:
            seen.append(tuple(x.shape))
    return seen


def test_simple_cnn_has_the_keras_notebooks_shapes() -> None:
    assert shapes("simple_cnn") == [(1, 64, 6, 6), (1, 64, 3, 3), (1, 576), (1, 50), (1, 10)]


def test_two_block_cnn_has_the_pytorch_notebooks_shapes() -> None:
    assert shapes("two_block_cnn") == [(1, 4, 28, 28), (1, 4, 14, 14), (1, 4, 7, 7), (1, 196), (1, 10)]


@pytest.mark.parametrize("name", NAMES)
def test_smallest_picture_is_four_pixels_wide(name: str) -> None:
    spec = find(name)
    assert spec.network(input=spec.input.resized(4, 4))(torch.zeros(2, 1, 4, 4)).shape == (2, 10)
    with pytest.raises(ValueError, match=f"{name} needs at least 4x4 pixels, not 3x3"):
        spec.network(input=spec.input.resized(3, 3))


@pytest.mark.parametrize("name", NAMES)
def test_network_learns_a_batch_by_heart(name: str) -> None:
    torch.manual_seed(0)
    spec = find(name)
    network = spec.network()
    images = torch.rand(20, 1, spec.input.height, spec.input.width)
    labels = torch.arange(20) % 10
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
    assert (network(images).argmax(1) == labels).float().mean() == 1.0
