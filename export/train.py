"""The training loop: from a dataset's training part to the weights of the best epoch."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from export.datasets import Split
from export.graph import ServedNetwork
from export.recipes import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: from 1.
        training_loss: mean cross entropy while training: shifted images, smoothed labels.
        validation_loss: mean cross entropy on the validation part, labels as they are.
        validation_accuracy_ratio: share of validation images that got the right label.
        images_per_s: training speed.
    """

    number: int
    training_loss: float
    validation_loss: float
    validation_accuracy_ratio: float
    images_per_s: float


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        epochs: all of them, in order; at least one.
    """

    recipe: Recipe
    epochs: Sequence[Epoch]

    @property
    def best(self) -> Epoch:
        """Give the epoch whose weights were kept: the first with the lowest validation loss."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)


class DivergedError(Exception):
    """The loss is no longer a number; the message names the epoch."""


def train(
    served: ServedNetwork,
    training: Split,
    validation: Split,
    recipe: Recipe,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Training:
    """Train a network in place and leave it with the weights of its best epoch, in evaluation mode.

    The images must already fit the network's input. The same seed gives the same weights on the same
    CPU.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    torch.set_num_threads(recipe.threads)
    generator = torch.Generator().manual_seed(recipe.seed)
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    steps_per_epoch = math.ceil(len(labels) / recipe.batch_size)
    optimizer = torch.optim.AdamW(served.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.epochs * steps_per_epoch
    )
    epochs: list[Epoch] = []
    best_state, lowest_loss = copy.deepcopy(served.state_dict()), math.inf
    for number in range(1, recipe.epochs + 1):
        epoch_started = time.monotonic()
        served.train()
        total_loss = 0.0
        for chosen in _batches(len(labels), recipe.batch_size, generator):
            batch = _shifted(images[chosen], recipe.max_shift_ratio, generator)
            loss = functional.cross_entropy(
                served.logits(batch), labels[chosen], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(chosen)
        training_loss = total_loss / len(labels)
        if not math.isfinite(training_loss):
            raise DivergedError(f"the training loss became {training_loss} in epoch {number}")
        validation_loss, accuracy_ratio = _evaluate(served, validation)
        if not math.isfinite(validation_loss):
            raise DivergedError(f"the validation loss became {validation_loss} in epoch {number}")
        images_per_s = len(labels) / (time.monotonic() - epoch_started)
        epoch = Epoch(number, training_loss, validation_loss, accuracy_ratio, images_per_s)
        epochs.append(epoch)
        if validation_loss < lowest_loss:
            best_state, lowest_loss = copy.deepcopy(served.state_dict()), validation_loss
        on_epoch(epoch)
    served.load_state_dict(best_state)
    served.eval()
    return Training(recipe, epochs)


@torch.no_grad()
def probabilities(served: ServedNetwork, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Give PyTorch's probabilities, float32 ``[N, K]``, for uint8 images ``[N, H, W, C]``."""
    served.eval()
    parts = [
        served(torch.tensor(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(parts).numpy()


def _evaluate(served: ServedNetwork, split: Split) -> tuple[float, float]:
    """Give the mean cross entropy and the share of right answers."""
    answers = torch.from_numpy(probabilities(served, split.images))  # [N, K]
    labels = torch.from_numpy(split.labels)
    loss = functional.nll_loss(answers.clamp_min(1e-12).log(), labels)
    return loss.item(), (answers.argmax(dim=1) == labels).double().mean().item()


def _batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    order = torch.randperm(count, generator=generator)
    for start in range(0, count, batch_size):
        yield order[start : start + batch_size]


def _shifted(images: torch.Tensor, max_shift_ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Shift every image by a random whole number of pixels; what comes in from outside is 0 (black)."""
    count, height, width, _ = images.shape
    shift_px = round(max_shift_ratio * min(height, width))
    padded = functional.pad(images, (0, 0, shift_px, shift_px, shift_px, shift_px))
    top = torch.randint(0, 2 * shift_px + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * shift_px + 1, (count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # [N, H], [N, W]
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
