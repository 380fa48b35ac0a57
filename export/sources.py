"""Where candidates come from: networks that are trained here, get loaded weights, or came as ONNX."""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from export.candidate import Candidate, Observer, input_of
from export.data import folders
from export.data.datasets import Dataset, Split
from export.graph.tracing import ServedNetwork, to_onnx
from export.graph.verification import Images
from export.onnx_import import conversion
from export.onnx_import.conversion import ImportRequest
from export.training import augment, recipes, train
from export.training.savepoint import Savepoint
from export.weights import loading
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec, ModelSpec

_CALIBRATION_PICTURES = 512  # of a folder; more take time and change little
_SAVEPOINT_PREFIX = ".training-"


def trained(
    spec: ModelSpec,
    name: str,
    dataset: Dataset,
    recipe: recipes.Recipe,
    folder: Path,
    observer: Observer,
    *,
    scaled_decoding: bool = False,
    background: str = "",
    unmirrored_label: str = "",
) -> tuple[ServedNetwork, Candidate]:
    """Train a network, or go on where an earlier process was interrupted.

    Args:
        name: of the model.
        folder: where the training's state lies until `forget`.
        background: colour that transparent pictures are put on, ``#rrggbb``; empty drops transparency.
        unmirrored_label: for which pictures are not mirrored; empty where no label decided.

    Raises:
        DatasetError: a picture cannot be read.
        DivergedError: every start failed.
        OSError: the folder cannot be written.
    """
    input_spec = spec.input_for(dataset.channels, dataset.side_px)
    shape, preprocessing = input_of(input_spec, background, scaled_decoding=scaled_decoding)
    training, validation, test = (
        part.fitted(shape, preprocessing) for part in (dataset.train, dataset.validation, dataset.test)
    )
    observer.step("training")
    served, history, training_s = _best_start(
        _Task(spec, input_spec, len(dataset.labels), training, validation, folder),
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
        training_s=round(training_s, 3),
        augmentation=manifest_pb2.Augmentation(
            max_shift_px=augment.max_shift_px(recipe.max_shift_ratio, shape.height, shape.width),
            mirrored=recipe.mirror,
            unmirrored_label=unmirrored_label,
        ),
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


def loaded(
    spec: ModelSpec,
    name: str,
    found: loading.Loaded,
    calibration: Path | None,
    observer: Observer,
    *,
    scaled_decoding: bool = False,
    background: str = "",
) -> tuple[ServedNetwork, Candidate]:
    """Serve weights that were trained elsewhere.

    Args:
        name: of the model.
        calibration: folder of pictures that precisions are judged on.
        background: colour that transparent pictures are put on, ``#rrggbb``; empty drops transparency.

    Raises:
        DatasetError: a picture cannot be read.
    """
    shape, preprocessing = input_of(found.input_spec, background, scaled_decoding=scaled_decoding)
    preprocessing.resize_shorter_px = found.resize_shorter_px
    preprocessing.interpolation = found.interpolation
    served = ServedNetwork(found.network, found.input_spec).eval()
    row = dataclasses.replace(spec, deviations=(*spec.deviations, *found.assumed))
    return served, Candidate(
        description=_describe(row, name, served, shape, preprocessing, found.origin),
        labels=found.labels,
        write=lambda path: to_onnx(served, path),
        answer=lambda images: train.probabilities(served, images, batch_size=8),
        pictures=_pictures(calibration, shape, preprocessing, observer),
    )


def imported(
    path: Path,
    request: ImportRequest,
    name: str,
    wrapped_path: Path,
    calibration: Path | None,
    observer: Observer,
) -> Candidate:
    """Wrap a classifier that came as ONNX; the file as it came is the reference.

    Args:
        name: of the model.
        wrapped_path: where the wrapped file is kept until it is published.
        calibration: folder of pictures that precisions are judged on.

    Raises:
        OnnxImportError: it is no image classifier that can be wrapped.
        DatasetError: a picture cannot be read.
        OSError: the file cannot be read.
    """
    wrapped = conversion.wrap(path, wrapped_path, request)
    for note in wrapped.notes:
        observer.note(note)
    shape, _ = input_of(wrapped.input_spec, scaled_decoding=request.scaled_decoding)
    shape.channel_order = wrapped.channel_order
    preprocessing = wrapped.preprocessing
    return Candidate(
        description=manifest_pb2.Manifest(
            name=name,
            version=1,  # the publisher numbers it
            architecture="imported",
            deviations=wrapped.changes,
            parameters=wrapped.parameters,
            input=shape,
            preprocessing=preprocessing,
            weights=wrapped.weights,
            reference="ONNX Runtime",
            multi_label=wrapped.multi_label,
        ),
        labels=wrapped.labels,
        write=partial(shutil.copyfile, wrapped_path),
        answer=wrapped.original,
        pictures=_pictures(calibration, shape, preprocessing, observer),
    )


def forget(folder: Path) -> None:
    """Remove the state of a training that ended in a published network."""
    for path in folder.glob(f"{_SAVEPOINT_PREFIX}*"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Task:
    """What is trained, on what, and where its savepoints lie."""

    spec: ModelSpec
    input_spec: InputSpec
    label_count: int
    training: Split
    validation: Split
    folder: Path

    def savepoint(self, recipe: recipes.Recipe) -> Savepoint:
        """Find where this very training goes on."""
        told = [
            dataclasses.asdict(recipe),
            self.spec.name,
            dataclasses.asdict(self.input_spec),
            torch.__version__,
        ]
        digest = hashlib.sha256(json.dumps(told).encode())
        for split in (self.training, self.validation):
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        key = digest.hexdigest()
        return Savepoint(self.folder / f"{_SAVEPOINT_PREFIX}{recipe.seed}", key)


def _best_start(
    task: _Task, recipe: recipes.Recipe, observer: Observer
) -> tuple[ServedNetwork, train.Training, float]:
    """Train from every start, and keep the one with the lowest validation loss.

    Returns:
        The network, how it was trained, and the seconds that all starts together took.

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
                    served, task.training, task.validation, started, observer, task.savepoint(started)
                )
            except train.DivergedError as error:
                failure = error
                continue
        attempts.append((served, history))
    if not attempts:
        raise failure or train.DivergedError("there was no start")
    served, history = min(attempts, key=lambda attempt: attempt[1].best.validation_loss)
    return served, history, sum(attempt.training_s for _, attempt in attempts)


def _pictures(
    folder: Path | None,
    shape: manifest_pb2.Input,
    preprocessing: manifest_pb2.Preprocessing,
    observer: Observer,
) -> Images | None:
    """Read the pictures to judge precisions on, where a folder of them was named."""
    if folder is None:
        return None
    observer.step(f"reading {folder}")
    return folders.pictures_in(folder, _CALIBRATION_PICTURES, shape, preprocessing)


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


def _paper(spec: ModelSpec) -> manifest_pb2.Paper | None:
    paper = spec.paper
    if paper is None:
        return None
    return manifest_pb2.Paper(title=paper.title, authors=paper.authors, year=paper.year, link=paper.link)
