"""The way from a name to a published artifact: train or load a network, then release it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from artifact import layout, publish
from export import sources
from export.candidate import Observer, ReleaseOptions
from export.data import datasets, folders, transparency
from export.data.datasets import Dataset
from export.graph.tracing import ServedNetwork
from export.onnx_import.conversion import ImportRequest
from export.publishing import release
from export.request import InapplicableError, Kind, Request, UnknownWeightsError
from export.training import augment, recipes, train
from export.weights import loading
from modelzoo.v1 import manifest_pb2
from zoo.spec import ModelSpec

__all__ = [
    "PRECISIONS",
    "Exported",
    "InapplicableError",
    "Request",
    "Silent",
    "UnknownWeightsError",
    "export",
    "import_",
]

PRECISIONS = tuple(layout.MODEL_FILES)


class Silent(train.Unwatched):
    """An observer that looks away."""

    def step(self, what: str) -> None:
        """Ignore the step."""

    def note(self, text: str) -> None:
        """Ignore the note."""


@dataclass(frozen=True)
class Exported:
    """A published artifact, with the network it was made from; an imported one has none in PyTorch."""

    folder: Path
    manifest: manifest_pb2.Manifest
    served: ServedNetwork | None


def export(spec: ModelSpec, request: Request, observer: Observer | None = None) -> Exported:
    """Train or load a network, prove it, and publish it.

    Raises:
        ManifestError: `request.name` is not a model's name.
        UnknownWeightsError: `request.weights` is neither a name nor a path.
        InapplicableError: an option of other weights is set.
        DatasetError: the pictures are not what training needs.
        DivergedError: every start of the training failed.
        WeightsError: the weights could not be loaded, or do not fit.
        PreprocessingError: it has to be chosen, or does not fit.
        GraphError: the exported graph is not what an artifact may hold.
        GoldenError: ONNX Runtime and PyTorch disagree.
        NoPicturesError: a precision needs pictures.
        OSError: the repository cannot be written.
    """
    observer = observer or Silent()
    name = request.model_name(spec)
    publish.require_name(name)  # before hours of training
    request.require_applicable()
    folder = request.repository / name
    dataset = _dataset(request, observer)
    background = request.background or ""
    if request.background is None and dataset is not None and isinstance(dataset.train, folders.Files):
        background = transparency.ground(dataset.train.paths, observer.note)
    if dataset is None:
        observer.step(f"loading {request.weights}")
        found = _load(spec, request, observer)
        served, candidate = sources.loaded(
            spec,
            name,
            found,
            request.calibration,
            observer,
            scaled_decoding=request.scaled_decoding,
            background=background,
        )
        precisions = request.precisions or PRECISIONS[:1]
    else:
        recipe, unmirrored_label = recipe_for(spec, dataset, request)
        served, candidate = sources.trained(
            spec,
            name,
            dataset,
            recipe,
            folder,
            observer,
            scaled_decoding=request.scaled_decoding,
            background=background,
            unmirrored_label=unmirrored_label,
        )
        precisions = request.precisions or PRECISIONS
    options = ReleaseOptions(request.repository, precisions, request.ungated)
    published = release.release(candidate, options, observer.step)
    sources.forget(folder)
    return Exported(published, candidate.description, served)


def import_(
    path: Path,
    request: ImportRequest,
    *,
    repository: Path,
    name: str,
    precisions: Sequence[str] = PRECISIONS[:1],
    calibration: Path | None = None,
    ungated: bool = False,
    observer: Observer | None = None,
) -> Exported:
    """Wrap an ONNX classifier from elsewhere, prove that it answers the same, and publish it.

    Raises:
        ManifestError: ``name`` is not a model's name.
        OnnxImportError: it is no image classifier that can be wrapped.
        DatasetError: a picture of ``calibration`` cannot be read.
        GoldenError: the wrapped file answers otherwise than the file as it came.
        NoPicturesError: a precision needs pictures.
        OSError: the repository cannot be written.
    """
    observer = observer or Silent()
    publish.require_name(name)
    observer.step(f"wrapping {path.name}")
    with tempfile.TemporaryDirectory() as scratch:
        wrapped_path = Path(scratch) / "wrapped.onnx"
        candidate = sources.imported(path, request, name, wrapped_path, calibration, observer)
        published = release.release(candidate, ReleaseOptions(repository, precisions, ungated), observer.step)
    return Exported(published, candidate.description, None)


def _dataset(request: Request, observer: Observer) -> Dataset | None:
    """Load what is to be trained on; None where weights are to be loaded."""
    seed = request.recipe.seed if request.recipe else recipes.Recipe().seed
    if request.kind is Kind.DATASET:
        observer.step(f"loading {request.weights}")
        return datasets.load(request.weights, seed, request.cache.expanduser())
    if request.kind is Kind.FOLDER:
        path = Path(request.weights)
        observer.step(f"reading {path}")
        return folders.load(path, seed, strict=request.strict, note=observer.note)
    return None


def recipe_for(spec: ModelSpec, dataset: Dataset, request: Request) -> tuple[recipes.Recipe, str]:
    """Choose how to train.

    Returns:
        The recipe, and the label for which pictures are not mirrored; empty where that did not decide.
    """
    if request.recipe is not None:
        mirror = request.recipe.mirror if request.mirror is None else request.mirror
        return replace(request.recipe, mirror=mirror), ""
    is_folder = isinstance(dataset.train, folders.Files)  # whatever it is called
    find = partial(recipes.find, spec.name, "" if is_folder else dataset.name)
    if request.mirror is not None or not dataset.mirrored:
        return find(mirror=bool(request.mirror)), ""
    label = augment.sided_label(dataset.labels)
    return find(mirror=label is None), label or ""


def _load(spec: ModelSpec, request: Request, observer: Observer) -> loading.Loaded:
    if request.kind is Kind.IMAGENET:
        return loading.from_imagenet(spec, note=observer.note)
    if request.kind is Kind.RANDOM:
        return loading.random(spec, seed=0)
    path = Path(request.weights)
    return loading.from_file(path, spec, request.labels, request.preprocessing, note=observer.note)
