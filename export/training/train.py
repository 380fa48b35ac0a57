"""The training loop: from a dataset's training part to the weights of the best epoch."""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from artifact.execution import core_count
from export.data.datasets import Split
from export.errors import ExportError
from export.graph.tracing import ServedNetwork
from export.training.augment import augment
from export.training.recipes import Recipe
from export.training.savepoint import Savepoint

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: from 1.
        training_loss: mean cross entropy while training: changed images, smoothed labels.
        validation_loss: mean cross entropy on the validation part, labels smoothed as in training: by the
            labels as they are, a network that learns to be less sure would seem to get worse.
        validation_accuracy_ratio: share of validation images that got the right label.
        training_s: time that training took, validation not counted.
        images_per_s: training speed in that time.
    """

    number: int
    training_loss: float
    validation_loss: float
    validation_accuracy_ratio: float
    training_s: float
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
        """Return the epoch of the weights that were kept: the first with the lowest validation loss."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)

    @property
    def training_s(self) -> float:
        """Return the seconds that all epochs took, whichever processes ran them."""
        return sum(epoch.training_s for epoch in self.epochs)


class Watcher(Protocol):
    """Reports how far a training has come."""

    def images(self, done: int, total: int) -> None:
        """Take note of the images trained on so far, of all epochs."""

    def epoch(self, epoch: Epoch) -> None:
        """Take note that an epoch ended."""


class Unwatched:
    """Looks away."""

    def images(self, done: int, total: int) -> None:
        """Ignore the progress."""

    def epoch(self, epoch: Epoch) -> None:
        """Ignore the epoch."""


class DivergedError(ExportError):
    """The loss is no longer a number; the message names the epoch."""


def train(
    served: ServedNetwork,
    training: Split,
    validation: Split,
    recipe: Recipe,
    watcher: Watcher | None = None,
    savepoint: Savepoint | None = None,
) -> Training:
    """Train a network in place and leave it with the weights of its best epoch, in evaluation mode.

    The images must already fit the network's input. The same seed gives the same weights on the same
    CPU, also where the training was interrupted: it goes on after the last epoch of ``savepoint``.
    On CUDA it runs in mixed precision, and the network comes back to the CPU.

    Raises:
        DivergedError: the loss became NaN or infinite.
        OSError: the savepoint cannot be written.
    """
    watcher = watcher or Unwatched()
    with _threads(recipe.threads):
        run = _Run(served, training, recipe)
        if savepoint is not None and (saved := savepoint.load()) is not None:
            run.restore(saved)
            for epoch in run.epochs:
                watcher.epoch(epoch)
        while not run.finished:
            run.learn(watcher)
            run.judge(validation)
            watcher.epoch(run.epochs[-1])
            if savepoint is not None:
                savepoint.save(run.state())
        run.keep_the_best()
    return Training(recipe, run.epochs)


@torch.no_grad()
def probabilities(
    served: ServedNetwork, images: np.ndarray, batch_size: int = _EVALUATION_BATCH
) -> np.ndarray:
    """Return PyTorch's probabilities, float32 ``[N, K]``, for uint8 images ``[N, H, W, C]``."""
    served.eval()
    parts = [
        served(torch.tensor(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(parts).numpy()


class _Run:
    """A training on its way: everything that an epoch changes."""

    def __init__(self, served: ServedNetwork, training: Split, recipe: Recipe) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._served = served.to(self._device).to(memory_format=torch.channels_last)
        self._recipe = recipe
        self._images, self._labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._optimizer = torch.optim.AdamW(served.parameters(), weight_decay=recipe.weight_decay, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            max_lr=recipe.learning_rate,
            total_steps=recipe.epochs * math.ceil(len(self._labels) / recipe.batch_size),
        )
        self._best: dict[str, torch.Tensor] = copy.deepcopy(served.state_dict())
        self._learned = (math.nan, math.nan, math.nan)  # of the epoch that is not judged yet
        self.epochs: list[Epoch] = []

    @property
    def finished(self) -> bool:
        """Return whether all epochs are done, or the last ones led nowhere."""
        if not self.epochs:
            return False
        best = Training(self._recipe, self.epochs).best
        done = len(self.epochs)
        return done == self._recipe.epochs or done - best.number >= self._recipe.patience

    def learn(self, watcher: Watcher) -> None:
        """Train for an epoch.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        recipe, count = self._recipe, len(self._labels)
        number = len(self.epochs) + 1
        self._served.train()
        started_s = time.monotonic()
        total_loss, seen = 0.0, 0
        for chosen in _batches(count, recipe.batch_size, self._generator):
            batch = augment(
                self._images[chosen], recipe.max_shift_ratio, self._generator, mirror=recipe.mirror
            )
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
                logits = self._served.logits(batch.to(self._device))  # [N, K]
            loss = functional.cross_entropy(
                logits.float(), self._labels[chosen].to(self._device), label_smoothing=recipe.label_smoothing
            )
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._served.parameters(), recipe.max_gradient_norm)
            self._optimizer.step()
            self._schedule.step()
            total_loss += loss.item() * len(chosen)
            seen += len(chosen)
            watcher.images((number - 1) * count + seen, recipe.epochs * count)
            if not math.isfinite(total_loss):
                raise DivergedError(f"the training loss became {total_loss} in epoch {number}")
        training_s = time.monotonic() - started_s
        self._learned = (total_loss / count, training_s, count / training_s)

    def judge(self, validation: Split) -> None:
        """Measure what the epoch came to, and remember its weights where they are the best so far.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        loss, accuracy_ratio = self._evaluate(validation)
        number = len(self.epochs) + 1
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss became {loss} in epoch {number}")
        training_loss, training_s, images_per_s = self._learned
        self.epochs.append(Epoch(number, training_loss, loss, accuracy_ratio, training_s, images_per_s))
        if Training(self._recipe, self.epochs).best.number == number:
            self._best = copy.deepcopy(self._served.state_dict())

    def keep_the_best(self) -> None:
        """Bring the network back to the CPU, with the weights of its best epoch."""
        self._served.to("cpu").to(memory_format=torch.contiguous_format)
        self._served.load_state_dict(self._best)
        self._served.eval()

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on as if nothing had happened."""
        return {
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            "weights": self._served.state_dict(),
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
            "dropout": torch.get_rng_state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a state."""
        self.epochs = [Epoch(**epoch) for epoch in saved["epochs"]]
        self._served.load_state_dict(saved["weights"])
        self._best = saved["best"]
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self._generator.set_state(saved["generator"])
        torch.set_rng_state(saved["dropout"])

    @torch.no_grad()
    def _evaluate(self, split: Split) -> tuple[float, float]:
        """Return the mean cross entropy and the share of right answers."""
        self._served.eval()
        total_loss, right = 0.0, 0
        for start in range(0, len(split.labels), _EVALUATION_BATCH):
            stop = start + _EVALUATION_BATCH
            logits = self._served.logits(torch.from_numpy(split.images[start:stop]).to(self._device))
            labels = torch.from_numpy(split.labels[start:stop]).to(self._device)
            total_loss += functional.cross_entropy(
                logits.double(), labels, reduction="sum", label_smoothing=self._recipe.label_smoothing
            ).item()
            right += int((logits.argmax(dim=1) == labels).sum())
        return total_loss / len(split.labels), right / len(split.labels)


def _batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Cut a random order into batches; a last one of a single image goes with the one before.

    Batch normalisation cannot learn from one value a map, which is what one small image has.
    """
    order = torch.randperm(count, generator=generator)
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count % batch_size == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        yield order[start:stop]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use as many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or core_count())
    try:
        yield
    finally:
        torch.set_num_threads(before)
