from __future__ import annotations

import pytest
import torch

from zoo.catalog import find
from zoo.lenet import LeNet5


def test_layers_have_the_papers_parameters() -> None:
    network = LeNet5(10, find("lenet5").input)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert counts == {"c1": 156, "s2": 0, "c3": 2_416, "s4": 0, "c5": 48_120, "f6": 10_164, "output": 850}


def test_white_enters_as_minus_a_tenth_and_black_as_1_175() -> None:
    spec = find("lenet5").input
    white, black = ((pixel - spec.mean[0]) / spec.std[0] for pixel in (0.0, 1.0))
    assert (white, black) == pytest.approx((-0.1, 1.175), abs=1e-12)


def test_answer_is_the_same_computed_by_hand() -> None:
    torch.manual_seed(0)
    network = LeNet5(10, find("lenet5").input)
    images = torch.randn(3, 1, 32, 32)
    x = images
    for layer in (network.c1, network.c3):
        x = torch.nn.functional.max_pool2d(torch.tanh(torch.conv2d(x, layer.weight, layer.bias)), 2)
    # A 5x5 convolution of a 5x5 map is one matrix product.
    x = torch.tanh(x.reshape(3, -1) @ network.c5.weight.reshape(120, -1).T + network.c5.bias)
    x = torch.tanh(x @ network.f6.weight.T + network.f6.bias)
    expected = x @ network.output.weight.T + network.output.bias
    torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-6)


def test_picture_below_32_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="lenet5 needs at least 32x32 pixels, not 28x28"):
        LeNet5(10, find("lenet5").input.resized(28, 28))
