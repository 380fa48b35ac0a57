"""What is to be exported: the weights of an architecture, and the options that mean something for them."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export.data import datasets, folders
from export.errors import ExportError
from export.training import recipes
from export.weights import checkpoint, loading
from export.weights.preprocessing import Preprocessing
from zoo.spec import ModelSpec


class Kind(enum.Enum):
    """What weights are; the values say it in messages."""

    DATASET = "a dataset"
    FOLDER = "a folder of pictures"
    IMAGENET = "torchvision's weights"
    RANDOM = "random weights"
    FILE = "a file of weights"


_TRAINED = (Kind.DATASET, Kind.FOLDER)
_LOADED = (Kind.IMAGENET, Kind.RANDOM, Kind.FILE)
# The weights that are neither a folder nor a file.
_NAMED = dict.fromkeys(datasets.NAMES, Kind.DATASET) | {
    "imagenet": Kind.IMAGENET,
    loading.RANDOM: Kind.RANDOM,
}


class UnknownWeightsError(ExportError):
    """There are no such weights; the message says what there can be."""


class InapplicableError(ExportError):
    """An option was given that means nothing for these weights; the message names it."""


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

    @property
    def kind(self) -> Kind:
        """Find what the weights are.

        Raises:
            UnknownWeightsError: they are neither a known name nor a path.
        """
        if self.weights in _NAMED:
            return _NAMED[self.weights]
        path = Path(self.weights)
        if not path.exists():
            raise UnknownWeightsError(
                f"no weights {self.weights!r}: "
                f"neither {', '.join(_NAMED)}, nor a folder of pictures, nor a file"
            )
        return Kind.FOLDER if path.is_dir() else Kind.FILE

    def model_name(self, spec: ModelSpec) -> str:
        """Name the model that an export publishes.

        Raises:
            UnknownWeightsError: there are no such weights.
        """
        if self.name is not None:
            return self.name
        path = Path(self.weights)
        if self.kind is Kind.FOLDER:
            return f"{spec.name}-{folders.name_of(path)}"
        if self.kind is Kind.FILE:
            return f"{spec.name}-{folders.slug(checkpoint.stem(path)) or 'weights'}"
        return f"{spec.name}-{self.weights}"

    def require_applicable(self) -> None:
        """Insist that every option that is given means something for the weights.

        Raises:
            UnknownWeightsError: there are no such weights.
            InapplicableError: one does not.
        """
        kind = self.kind
        of_preprocessing = "--preprocessing, --mean, --std, --resize, --crop and --interpolation are"
        for is_given, option, kinds, called in (
            (self.labels is not None, "--labels is", (Kind.FILE,), Kind.FILE.value),
            (self.preprocessing != Preprocessing(), of_preprocessing, (Kind.FILE,), Kind.FILE.value),
            (self.strict, "--strict is", (Kind.FOLDER,), Kind.FOLDER.value),
            (self.mirror is not None, "--mirror and --no-mirror are", _TRAINED, "a training"),
            (self.calibration is not None, "--calibration is", _LOADED, "weights that are loaded"),
        ):
            if is_given and kind not in kinds:
                what = self.weights if self.weights in _NAMED else kind.value
                raise InapplicableError(f"{option} for {called}, not for {what}")
