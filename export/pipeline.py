"""The way from a name to a published artifact: train or load a network, then release it."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from artifact import manifest
from export import datasets, folders, recipes, release, train, weights
from export.candidate import Candidate, Wishes
from export.checkpoint import Checkpoint
from export.datasets import Dataset, DatasetError, Split
from export.graph import ServedNetwork, to_onnx
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec, ModelSpec

PRECISIONS = ("fp32", "fp16", "int8")
_CALIBRATION_PICTURES = 512  # of a folder; more take time and change little


class Observer(train.Watcher, Protocol):
    """Who wants to see how far an export has come."""

    def step(self, what: str) -> None:
        """Take note that the next step began."""


class Silent(train.Unwatched):
    """An observer that looks away."""

    def step(self, what: str) -> None:
        """Ignore the step."""


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        weights: a dataset's name or a folder of pictures to train on, `imagenet` or a file to load, or
            `random`.
        name: of the model; None for `<architecture>-<weights>`.
        labels: file with a label a line, for weights from a file.
        precisions: None for all of a trained network and fp32 of a loaded one.
        calibration: folder of pictures that precisions are judged on where there is no held-out set.
        cache: folder of downloaded datasets.
        recipe: how to train; None looks it up.
    """

    repository: Path
    weights: str = "digits"
    name: str | None = None
    labels: Path | None = None
    precisions: Sequence[str] | None = None
    calibration: Path | None = None
    ungated: bool = False
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "modelzoo")
    recipe: recipes.Recipe | None = None


@dataclass(frozen=True)
class Exported:
    """A published artifact, with the network it was made from."""

    folder: Path
    manifest: manifest_pb2.Manifest
    served: ServedNetwork


class UnknownWeightsError(LookupError):
    """There are no such weights; the message says what there can be."""


def export(spec: ModelSpec, request: Request, observer: Observer | None = None) -> Exported:
    """Train or load a network, prove it, and publish it.

    Raises:
        UnknownWeightsError: `request.weights` is neither a name nor a path.
        DatasetError: the pictures are not what training needs.
        DivergedError: every start of the training failed.
        WeightsError: the weights could not be loaded, or do not fit.
        GraphError: the exported graph is not what an artifact may hold.
        GoldenError: ONNX Runtime and PyTorch disagree.
        NoPicturesError: a precision needs pictures.
        PrecisionError: a file could not be converted.
        OSError: the repository cannot be written.
    """
    observer = observer or Silent()
    dataset = _dataset(request, observer)
    if dataset is None:
        served, candidate = _loaded(spec, request, observer)
        precisions = request.precisions or PRECISIONS[:1]
    else:
        served, candidate = _trained(spec, dataset, request, observer)
        precisions = request.precisions or PRECISIONS
    wishes = Wishes(request.repository, precisions, request.ungated)
    folder = release.release(candidate, wishes, observer.step)
    _forget(request.repository / candidate.description.name)
    return Exported(folder, candidate.description, served)


def model_name(spec: ModelSpec, request: Request) -> str:
    """Name the model that an export publishes."""
    if request.name is not None:
        return request.name
    path = Path(request.weights)
    suffix = folders.name(path) if path.is_dir() else path.stem.lower() if path.is_file() else request.weights
    return f"{spec.name}-{suffix}"


def _dataset(request: Request, observer: Observer) -> Dataset | None:
    """Load what is to be trained on; None where weights are to be loaded."""
    seed = request.recipe.seed if request.recipe else recipes.Recipe().seed
    if request.weights in datasets.NAMES:
        observer.step(f"loading {request.weights}")
        return datasets.load(request.weights, seed, request.cache)
    path = Path(request.weights)
    if path.is_dir():
        observer.step(f"reading {path}")
        return folders.load(path, seed)
    if request.weights in weights.NAMES or path.is_file():
        return None
    raise UnknownWeightsError(
        f"no weights {request.weights!r}: neither {', '.join((*datasets.NAMES, *weights.NAMES))} "
        "nor a folder of pictures nor a file"
    )


def _trained(
    spec: ModelSpec, dataset: Dataset, request: Request, observer: Observer
) -> tuple[ServedNetwork, Candidate]:
    name = model_name(spec, request)
    recipe = request.recipe or recipes.find(spec.name, dataset.name, mirror=dataset.mirrored)
    input_spec = spec.input_for(dataset.channels, dataset.side_px)
    shape, preprocessing = _input(input_spec)
    training, validation, test = (
        part.fitted(shape, preprocessing) for part in (dataset.train, dataset.validation, dataset.test)
    )
    observer.step("training")
    started_s = time.monotonic()
    served, history = _best_start(
        _Task(spec, input_spec, len(dataset.labels), training, validation, request.repository / name),
        recipe,
        observer,
    )
    origin = manifest_pb2.Weights(
        origin=manifest_pb2.ORIGIN_TRAINED,
        dataset=dataset.name,
        seed=recipe.seed,
        starts=recipe.starts,
        start=history.recipe.seed - recipe.seed,
        epochs=len(history.epochs),
        best_epoch=history.best.number,
        training_s=round(time.monotonic() - started_s, 3),
    )
    return served, Candidate(
        description=_describe(spec, name, served, shape, preprocessing, origin),
        labels=dataset.labels,
        write=lambda path: to_onnx(served, path),
        answer=lambda images: train.probabilities(served, images),
        held_out=test,
        held_out_name=dataset.held_out,
        chosen_on=validation,
        pictures=training.images,
        training=history,
    )


@dataclass(frozen=True)
class _Task:
    """What is trained, on what, and where its checkpoints lie."""

    spec: ModelSpec
    input_spec: InputSpec
    label_count: int
    training: Split
    validation: Split
    folder: Path

    def checkpoint(self, recipe: recipes.Recipe) -> Checkpoint:
        """Find where this very training goes on."""
        told = [dataclasses.asdict(recipe), self.spec.name, dataclasses.asdict(self.input_spec), torch.__version__]
        digest = hashlib.sha256(json.dumps(told).encode())
        for split in (self.training, self.validation):
            digest.update(split.images)
            digest.update(split.labels)
        key = digest.hexdigest()
        return Checkpoint(self.folder / f"{_CHECKPOINT_PREFIX}{recipe.seed}", key)


_CHECKPOINT_PREFIX = ".training-"


def _forget(folder: Path) -> None:
    """Remove the checkpoints of a training whose network is published."""
    for path in folder.glob(f"{_CHECKPOINT_PREFIX}*"):
        path.unlink(missing_ok=True)


def _best_start(
    task: _Task, recipe: recipes.Recipe, observer: Observer
) -> tuple[ServedNetwork, train.Training]:
    """Train from every start, and keep the one with the lowest validation loss.

    Raises:
        DivergedError: every start failed; a single one that does is passed over.
    """
    attempts: list[tuple[ServedNetwork, train.Training]] = []
    failure: train.DivergedError | None = None
    for start in range(recipe.starts):
        started = dataclasses.replace(recipe, seed=recipe.seed + start)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(started.seed)  # initialisation and dropout draw from the global generator
            served = ServedNetwork(task.spec.network(task.label_count, task.input_spec), task.input_spec)
            try:
                history = train.train(
                    served, task.training, task.validation, started, observer, task.checkpoint(started)
                )
            except train.DivergedError as error:
                failure = error
                continue
        attempts.append((served, history))
    if not attempts:
        raise failure or train.DivergedError("there was no start")
    return min(attempts, key=lambda attempt: attempt[1].best.validation_loss)


def _loaded(spec: ModelSpec, request: Request, observer: Observer) -> tuple[ServedNetwork, Candidate]:
    observer.step(f"loading {request.weights}")
    loaded = weights.load(spec, request.weights, request.labels)
    shape, preprocessing = _input(loaded.input_spec)
    preprocessing.resize_shorter_px = loaded.resize_shorter_px
    preprocessing.interpolation = loaded.interpolation
    served = ServedNetwork(loaded.network, loaded.input_spec).eval()
    pictures = None
    if request.calibration is not None:
        observer.step(f"reading {request.calibration}")
        pictures = folders.pictures(request.calibration, _CALIBRATION_PICTURES, shape, preprocessing)
    random = loaded.source == weights.RANDOM
    origin = manifest_pb2.Weights(
        origin=manifest_pb2.ORIGIN_RANDOM if random else manifest_pb2.ORIGIN_LOADED,
        source=loaded.source,
        sha256=loaded.sha256 or "",
        stated_accuracy_ratio=loaded.stated_accuracy_ratio,
    )
    return served, Candidate(
        description=_describe(spec, model_name(spec, request), served, shape, preprocessing, origin),
        labels=loaded.labels,
        write=lambda path: to_onnx(served, path),
        answer=lambda images: train.probabilities(served, images, batch_size=8),
        pictures=pictures,
    )


def _describe(
    spec: ModelSpec,
    name: str,
    served: ServedNetwork,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    origin: manifest_pb2.Weights,
) -> manifest_pb2.Manifest:
    return manifest_pb2.Manifest(
        name=name,
        version=1,  # the publisher numbers it
        architecture=spec.name,
        paper=_paper(spec),
        deviations=spec.deviations,
        parameters=sum(parameter.numel() for parameter in served.parameters()),
        input=shape,
        preprocessing=preprocessing,
        weights=origin,
        reference="PyTorch",
    )


def _input(spec: InputSpec) -> tuple[manifest_pb2.Input, manifest_pb2.Preprocessing]:
    """Describe a network's input; a picture is resized to fill it, nothing more."""
    return (
        manifest_pb2.Input(
            height=spec.height, width=spec.width, channels=spec.channels, mean=spec.mean, std=spec.std
        ),
        manifest_pb2.Preprocessing(
            resize_shorter_px=max(spec.height, spec.width),
            interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        ),
    )


def _paper(spec: ModelSpec) -> manifest_pb2.Paper | None:
    paper = spec.paper
    if paper is None:
        return None
    return manifest_pb2.Paper(title=paper.title, authors=paper.authors, year=paper.year, link=paper.link)
