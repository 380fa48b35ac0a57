"""What tests of networks share."""

from __future__ import annotations

from torch import nn

from zoo.catalog import find


def as_after_training(name: str) -> nn.Module:
    """Build a network as training leaves it."""
    return with_statistics(find(name).network())


def with_statistics(network: nn.Module) -> nn.Module:
    """Have a network's batch normalisations hold neither zeros nor ones, and turn it to evaluation."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()
