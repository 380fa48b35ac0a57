"""Training repeats itself bit for bit, keeps its best epoch, and says when it has failed."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.data import datasets
from export.data.datasets import Split
from export.graph import tracing
from export.training import train
from export.training.recipes import Recipe
from zoo import catalog
from zoo.spec import InputSpec

DIGIT = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
QUICK = Recipe(epochs=2, learning_rate=1e-2)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    """At their own 8 x 8 pixels, which is what simple_cnn takes."""
    return datasets.load("digits", seed=0, cache=Path())


def fresh(architecture: str = "simple_cnn", seed: int = 0) -> tracing.ServedNetwork:
    spec = catalog.find(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tracing.ServedNetwork(spec.network(), spec.input)


def linear() -> tracing.ServedNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tracing.ServedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), DIGIT)


def state(served: tracing.ServedNetwork) -> State:
    return copy.deepcopy(served.state_dict())


class AfterEachEpoch(train.Unwatched):
    """Calls back whenever an epoch has ended."""

    def __init__(self, call: Callable[[train.Epoch], None]) -> None:
        self.epoch = call


def equal(first: State, second: State) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


def cross_entropy(served: tracing.ServedNetwork, split: Split) -> float:
    """The mean cross entropy, in double precision and without `export`."""
    with torch.no_grad():
        logits = served.eval().logits(torch.tensor(split.images)).double().numpy()
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_probabilities[np.arange(len(split.labels)), split.labels].mean())


def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits: datasets.Dataset) -> None:
    states = []
    for _ in range(2):
        served = fresh()
        before = state(served)
        train.train(served, digits.train, digits.validation, QUICK)
        states.append(state(served))
        assert not equal(before, states[-1])
    assert equal(*states)


def test_another_seed_gives_other_weights_from_the_same_beginning(digits: datasets.Dataset) -> None:
    states = []
    for seed in (0, 1):
        served = fresh()
        train.train(served, digits.train, digits.validation, Recipe(epochs=1, seed=seed))
        states.append(state(served))
    assert not equal(*states)


def test_training_learns(digits: datasets.Dataset) -> None:
    served = fresh()
    history = train.train(served, digits.train, digits.validation, Recipe(epochs=6, learning_rate=1e-2))
    assert [epoch.number for epoch in history.epochs] == [1, 2, 3, 4, 5, 6]
    assert history.epochs[-1].training_loss < history.epochs[0].training_loss / 2
    assert history.best.validation_accuracy_ratio > 0.9
    assert history.best.validation_loss == min(epoch.validation_loss for epoch in history.epochs)
    assert all(epoch.images_per_s > 0 for epoch in history.epochs)
    assert not served.training


def test_the_validation_figures_are_those_of_the_network(digits: datasets.Dataset) -> None:
    served = linear()
    found: list[tuple[train.Epoch, float]] = []
    history = train.train(
        served,
        digits.train,
        digits.validation,
        QUICK,
        AfterEachEpoch(lambda epoch: found.append((epoch, cross_entropy(served, digits.validation)))),
    )
    assert [epoch for epoch, _ in found] == history.epochs
    for epoch, loss in found:
        assert epoch.validation_loss == pytest.approx(loss, rel=1e-4)
    answers = train.probabilities(served, digits.validation.images).argmax(axis=1)
    assert history.best == history.epochs[-1]  # so that the figures are still the network's
    assert history.best.validation_accuracy_ratio == np.mean(answers == digits.validation.labels)


def test_the_weights_of_the_best_epoch_are_kept(digits: datasets.Dataset) -> None:
    # Every validation label is wrong, so the more the network learns the worse it does.
    wrong = Split(digits.validation.images, (digits.validation.labels + 1) % 10)
    served = fresh()
    states: list[State] = []
    history = train.train(
        served,
        digits.train,
        wrong,
        Recipe(epochs=4, learning_rate=1e-2),
        AfterEachEpoch(lambda _: states.append(state(served))),
    )
    losses = [epoch.validation_loss for epoch in history.epochs]
    best = int(np.argmin(losses))
    assert best < 3
    assert history.best is history.epochs[best]
    assert equal(state(served), states[best])
    assert not equal(state(served), states[-1])
    assert cross_entropy(served, wrong) == pytest.approx(losses[best], rel=1e-4)


def test_running_statistics_of_the_best_epoch_are_kept_too(digits: datasets.Dataset) -> None:
    spec = catalog.find("two_block_cnn").input.resized(8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        served = tracing.ServedNetwork(catalog.find("two_block_cnn").network(10, spec), spec)
    wrong = Split(digits.validation.images, (digits.validation.labels + 1) % 10)
    states: list[State] = []
    history = train.train(
        served,
        digits.train,
        wrong,
        Recipe(epochs=4, learning_rate=2e-2),
        AfterEachEpoch(lambda _: states.append(state(served))),
    )
    assert history.best.number < 4
    kept = state(served)
    assert "network.1.running_mean" in kept
    assert equal(kept, states[history.best.number - 1])


def test_label_smoothing_is_in_both_losses(digits: datasets.Dataset) -> None:
    # Labels spread over ten and a network that knows nothing: either way the loss is the log of ten.
    # A network that is sure pays for smoothing: nine tenths of s / 10 times how sure it is.
    sure = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        sure[1].weight.zero_()
        sure[1].bias.copy_(torch.tensor([20.0] + [0.0] * 9))
    zeros = Split(digits.train.images[:64], np.zeros(64, np.int64))
    recipe = Recipe(epochs=1, learning_rate=1e-9, weight_decay=0, label_smoothing=0.1)
    history = train.train(tracing.ServedNetwork(sure, DIGIT), zeros, zeros, recipe)
    assert history.epochs[0].training_loss == pytest.approx(0.1 * 9 / 10 * 20, rel=1e-4)
    assert history.epochs[0].validation_loss == pytest.approx(0.1 * 9 / 10 * 20, rel=1e-4)


def test_an_absurd_learning_rate_is_reported_as_divergence(digits: datasets.Dataset) -> None:
    with pytest.raises(
        train.DivergedError, match=r"^the (training|validation) loss became (nan|inf) in epoch 1$"
    ):
        train.train(fresh(), digits.train, digits.validation, Recipe(epochs=3, learning_rate=1e30))


class NanWhen(nn.Module):
    """Gives NaN in training or in evaluation, and else what a linear layer gives."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.nan_in_training = training

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(pixels.flatten(1))
        return logits * math.nan if self.training == self.nan_in_training else logits


@pytest.mark.parametrize(("training", "loss"), [(True, "training"), (False, "validation")])
def test_a_loss_that_is_no_number_is_reported_with_its_epoch(
    digits: datasets.Dataset, training: bool, loss: str
) -> None:
    served = tracing.ServedNetwork(NanWhen(training), DIGIT)
    with pytest.raises(train.DivergedError, match=rf"^the {loss} loss became nan in epoch 1$"):
        train.train(served, digits.train, digits.validation, QUICK)


class Recorder(nn.Module):
    """Keeps what it is trained on, on the scale 0..255."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.seen: list[torch.Tensor] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append((pixels * 255).round().to(torch.uint8)[:, 0])  # [N, H, W]
        logits: torch.Tensor = self.linear(pixels.flatten(1))
        return logits


def recorded(images: np.ndarray, recipe: Recipe) -> np.ndarray:
    split = Split(images, np.arange(len(images)) % 10)
    recorder = Recorder()
    train.train(tracing.ServedNetwork(recorder, DIGIT), split, split, recipe)
    return torch.cat(recorder.seen).numpy()


def shifted(image: np.ndarray, down_px: int, right_px: int) -> np.ndarray:
    """Move the pixels of an image [H, W], zeros after them."""
    moved = np.zeros_like(image)
    height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down_px < height and 0 <= column - right_px < width:
                moved[row, column] = image[row - down_px, column - right_px]
    return moved


def test_images_are_shifted_by_whole_pixels_and_every_shift_comes() -> None:
    image = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    images = np.broadcast_to(image[:, :, np.newaxis], (500, 8, 8, 1)).copy()
    seen = recorded(images, Recipe(epochs=1, max_shift_ratio=2 / 8))
    allowed = {
        shifted(image, down_px, right_px).tobytes(): (down_px, right_px)
        for down_px in range(-2, 3)
        for right_px in range(-2, 3)
    }
    assert len(allowed) == 25
    assert len(seen) == 500
    assert {allowed[each.tobytes()] for each in seen} == set(allowed.values())


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    images = np.arange(100, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones(
        (1, 8, 8, 1), np.uint8
    )
    seen = recorded(images, Recipe(epochs=2, max_shift_ratio=0))
    assert (seen == seen[:, :1, :1]).all()  # no shift, no zeros
    first, second = seen[:100, 0, 0], seen[100:, 0, 0]
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(range(100))
    assert list(first) != list(second)


def test_probabilities_do_not_depend_on_the_batch_size_and_sum_to_one(digits: datasets.Dataset) -> None:
    served = fresh()
    images = digits.test.images[:50]
    whole = train.probabilities(served, images)
    assert whole.shape == (50, 10)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(train.probabilities(served, images, batch_size=7), whole, atol=1e-6)
    with torch.no_grad():
        wanted = torch.softmax(served.network(torch.tensor(images).permute(0, 3, 1, 2) / 255), dim=1)
    np.testing.assert_allclose(whole, wanted.numpy(), atol=1e-6)
