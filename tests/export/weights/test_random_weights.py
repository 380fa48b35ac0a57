"""Random weights are good enough to measure speed with, and always the same."""

import dataclasses

import numpy as np
import torch

from export.weights import loading
from zoo import catalog

LENET = catalog.find("lenet5")
RESNET = catalog.find("resnet18")


def test_random_weights_are_the_same_for_a_seed_and_leave_torchs_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (loading.random(LENET, seed).network.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["c1.weight"], other["c1.weight"])
    loaded = loading.random(LENET, 1)
    assert (loaded.labels, loaded.source, loaded.sha256) == (tuple("0123456789"), "random", None)


def test_random_batch_normalisation_is_of_what_it_sees() -> None:
    small = dataclasses.replace(RESNET, input=RESNET.input.resized(64, 64))
    loaded = loading.random(small, 0)
    noise = (np.random.default_rng(0).random((4, 3, 64, 64)) - 0.45) / 0.225
    with torch.no_grad():
        logits = loaded.network(torch.tensor(noise, dtype=torch.float32))
    assert not loaded.network.training
    assert 0.1 < logits.std().item() < 2  # it would be 22 million in a ResNet-152
    mean = loaded.network.get_buffer("layer4.1.bn2.running_mean")
    assert mean.abs().max().item() > 1e-3
