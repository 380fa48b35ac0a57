"""The way from a name to a published artifact: train or load a network, then release it."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from artifact import layout, publish
from export import sources
from export.candidate import Observer, ReleaseOptions
from export.data import datasets, folders, transparency
from export.data.datasets import Dataset
from export.data.transparency import Ground
from export.errors import ExportError
from export.graph.tracing import ServedNetwork
from export.onnx_import.conversion import ImportRequest
from export.publishing import release
from export.training import augment, recipes, train
from export.weights import checkpoint, loading
from export.weights.preprocessing import Preprocessing, PreprocessingError
from modelzoo.v1 import manifest_pb2
from zoo.spec import ModelSpec

IMAGENET = "imagenet"
PRECISIONS = tuple(layout.MODEL_FILES)
_NAMED = (*datasets.NAMES, IMAGENET, loading.RANDOM)  # the weights that are neither a folder nor a file


class Silent(train.Unwatched):
    """An observer that looks away."""

    def step(self, what: str) -> None:
        """Ignore the step."""

    def note(self, text: str) -> None:
        """Ignore the note."""


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        weights: a dataset's name or a folder of pictures to train on, `imagenet` or a file to load, or
            `random`.
        name: of the model; None for `<architecture>-<weights>`.
        labels: file of labels, for weights from a file; see `labels.read`.
        preprocessing: what is known of the one that weights from a file were trained for.
        precisions: None for all of a trained network and fp32 of a loaded one.
        calibration: folder of pictures that precisions are judged on where there is no held-out set.
        scaled_decoding: whether large JPEG files may be decoded at a part of their size, now and served.
        strict: whether a folder is refused where a picture file in it cannot be used.
        background: colour that transparent pictures are put on, ``#rrggbb``; None drops transparency, unless
            most pictures of a folder have some: white then.
        cache: folder of downloaded datasets.
        mirror: whether half of the training pictures are mirrored; None where the dataset allows it and no
            label suggests otherwise.
        recipe: how to train, but for ``mirror``; None looks it up.
    """

    repository: Path
    weights: str = "digits"
    name: str | None = None
    labels: Path | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    precisions: Sequence[str] | None = None
    calibration: Path | None = None
    ungated: bool = False
    scaled_decoding: bool = False
    strict: bool = False
    background: str | None = None
    cache: Path = Path("~/.cache/modelzoo")
    mirror: bool | None = None
    recipe: recipes.Recipe | None = None


@dataclass(frozen=True)
class Exported:
    """A published artifact, with the network it was made from; an imported one has none in PyTorch."""

    folder: Path
    manifest: manifest_pb2.Manifest
    served: ServedNetwork | None


class UnknownWeightsError(ExportError):
    """There are no such weights; the message says what there can be."""


class UntrainedError(ExportError):
    """An option of trainings was given, and nothing is trained; the message names it."""


def export(spec: ModelSpec, request: Request, observer: Observer | None = None) -> Exported:
    """Train or load a network, prove it, and publish it.

    Raises:
        ManifestError: `request.name` is not a model's name.
        UnknownWeightsError: `request.weights` is neither a name nor a path.
        UntrainedError: `request.mirror` is set, and weights are loaded.
        DatasetError: the pictures are not what training needs.
        DivergedError: every start of the training failed.
        WeightsError: the weights could not be loaded, or do not fit.
        PreprocessingError: it has to be chosen, does not fit, or is given for weights that are no file.
        GraphError: the exported graph is not what an artifact may hold.
        GoldenError: ONNX Runtime and PyTorch disagree.
        NoPicturesError: a precision needs pictures.
        OSError: the repository cannot be written.
    """
    observer = observer or Silent()
    name = model_name(spec, request)
    publish.require_name(name)  # before hours of training
    is_file = request.weights not in _NAMED and not Path(request.weights).is_dir()
    if request.preprocessing != Preprocessing() and not is_file:
        raise PreprocessingError(
            f"a preprocessing is given for weights from a file, not for {request.weights}"
        )
    folder = request.repository / name
    dataset = _dataset(request, observer)
    ground = _ground(request, dataset)
    for note in ground.notes:
        observer.note(note)
    if dataset is None:
        if request.mirror is not None:
            raise UntrainedError(f"--mirror and --no-mirror are of trainings; {request.weights} is loaded")
        observer.step(f"loading {request.weights}")
        found = _load(spec, request)
        for note in found.notes:
            observer.note(note)
        served, candidate = sources.loaded(
            spec,
            name,
            found,
            request.calibration,
            observer,
            scaled_decoding=request.scaled_decoding,
            background=ground.background,
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
            background=ground.background,
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


def model_name(spec: ModelSpec, request: Request) -> str:
    """Name the model that an export publishes."""
    if request.name is not None:
        return request.name
    path = Path(request.weights)
    suffix = folders.name_of(path) if path.is_dir() else request.weights
    if path.is_file():
        suffix = re.sub(r"[^a-z0-9_.]+", "-", checkpoint.stem(path)).strip("-.") or "weights"
    return f"{spec.name}-{suffix}"


def require_weights(weights_: str) -> None:
    """Find out that weights could be had.

    Raises:
        UnknownWeightsError: they are neither a known name nor a path.
    """
    if weights_ not in _NAMED and not Path(weights_).exists():
        raise UnknownWeightsError(
            f"no weights {weights_!r}: neither {', '.join(_NAMED)}, nor a folder of pictures, nor a file"
        )


def _dataset(request: Request, observer: Observer) -> Dataset | None:
    """Load what is to be trained on; None where weights are to be loaded."""
    seed = request.recipe.seed if request.recipe else recipes.Recipe().seed
    if request.weights in datasets.NAMES:
        observer.step(f"loading {request.weights}")
        return datasets.load(request.weights, seed, request.cache.expanduser())
    path = Path(request.weights)
    if path.is_dir():
        observer.step(f"reading {path}")
        return folders.load(path, seed, strict=request.strict, note=observer.note)
    require_weights(request.weights)
    return None


def recipe_for(spec: ModelSpec, dataset: Dataset, request: Request) -> tuple[recipes.Recipe, str]:
    """Choose how to train.

    Returns:
        The recipe, and the label for which pictures are not mirrored; empty where that did not decide.
    """
    if request.recipe is not None:
        mirror = request.recipe.mirror if request.mirror is None else request.mirror
        return replace(request.recipe, mirror=mirror), ""
    if request.mirror is not None or not dataset.mirrored:
        return recipes.find(spec.name, dataset.name, mirror=bool(request.mirror)), ""
    label = augment.sided_label(dataset.labels)
    return recipes.find(spec.name, dataset.name, mirror=label is None), label or ""


def _ground(request: Request, dataset: Dataset | None) -> Ground:
    """Find what transparent pictures are put on: as asked, or by a look at a folder's pictures."""
    if request.background is None and dataset is not None and isinstance(dataset.train, folders.Files):
        return transparency.ground(dataset.train.paths)
    return Ground(request.background or "")


def _load(spec: ModelSpec, request: Request) -> loading.Loaded:
    if request.weights == IMAGENET:
        return loading.from_imagenet(spec)
    if request.weights == loading.RANDOM:
        return loading.random(spec, seed=0)
    return loading.from_file(Path(request.weights), spec, request.labels, request.preprocessing)
