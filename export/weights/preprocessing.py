"""From a picture to a network's numbers, where the weights come from a file: what is given, known or assumed.

A state dict says nothing of it. With another preprocessing than the training's the answers are wrong, and
nothing shows it, so that whatever is assumed is said.
"""

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from artifact import files
from artifact.manifest import MAX_SIDE_PX
from export.errors import ExportError
from zoo import weights
from zoo.spec import InputSpec, ModelSpec

Interpolation = Literal["bilinear", "bicubic"]
Start = Literal["finetuned", "scratch"]

_MAX_FILE_BYTES = 1 << 16
_MAX_MEAN = 1.0
_KEYS = ("mean", "std", "resize", "crop", "interpolation")  # of a file, and the names of the options


class PreprocessingError(ExportError):
    """A preprocessing cannot be had, or has to be chosen; the message says why, in one line."""


@dataclass(frozen=True)
class Preprocessing:
    """What is given of a preprocessing; None where nothing is.

    Attributes:
        start: mean and std by where the training started: ``finetuned`` from torchvision's weights, with
            theirs, or from ``scratch``, with those of the catalog's row.
        mean: on the scale 0..1, one number or one a channel.
        std: the same, above zero.
        resize: what a picture's shorter side is resized to, in pixels.
        crop: side of the centre that is then cut out, which is the network's input, in pixels.

    Raises:
        PreprocessingError: a value is out of range, or two contradict each other.
    """

    start: Start | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (len(values) in (1, 3) and all(map(math.isfinite, values))):
                raise PreprocessingError(
                    f"{name} is one number or three, each finite, not {_numbers(values)}"
                )
        if self.mean is not None and max(map(abs, self.mean)) > _MAX_MEAN:
            raise PreprocessingError(
                f"mean is on the scale 0..1, not {_numbers(self.mean)}: divide mean and std of 0..255 by 255"
            )
        if self.std is not None and min(self.std) <= 0:
            raise PreprocessingError(f"std is above zero, not {_numbers(self.std)}")
        for name, side_px in (("resize", self.resize), ("crop", self.crop)):
            if side_px is not None and not 1 <= side_px <= MAX_SIDE_PX:
                raise PreprocessingError(f"{name} is 1 to {MAX_SIDE_PX} pixels, not {side_px}")
        if self.interpolation not in (None, *get_args(Interpolation)):
            raise PreprocessingError(
                f"interpolation is {' or '.join(get_args(Interpolation))}, not {self.interpolation!r}"
            )
        if self.start is not None and (self.mean or self.std):
            raise PreprocessingError(f"mean and std are those of {self.start!r}; give either it or them")

    def sized(self, own: InputSpec) -> InputSpec:
        """Return an input at the size that is given; as it is where none is."""
        return own if self.crop is None else own.resized(self.crop, self.crop)


@dataclass(frozen=True)
class Settled:
    """A whole preprocessing, and where it comes from.

    Attributes:
        summary: all of it in words, and how much of it was assumed.
        assumed: the part that was neither given nor known, in words; empty where there is none.
    """

    input_spec: InputSpec
    resize_shorter_px: int
    interpolation: Interpolation
    summary: str
    assumed: str


def chosen(start_or_file: str | None = None, **options: Any) -> Preprocessing:
    """Make a preprocessing of a command's options.

    Args:
        start_or_file: ``finetuned``, ``scratch``, or a JSON or TOML file with keys of the options' names.
        options: fields of `Preprocessing`, which come before the file's; None where not given.

    Raises:
        PreprocessingError: the file cannot be read or holds something else, or a value is out of range.
    """
    told = {name: value for name, value in options.items() if value is not None}
    if start_or_file is None:
        return Preprocessing(**told)
    if start_or_file in get_args(Start):
        return Preprocessing(cast(Start, start_or_file), **told)
    return dataclasses.replace(read(Path(start_or_file)), **told)


def read(path: Path) -> Preprocessing:
    """Read a preprocessing from a JSON or TOML file, some or all of its keys.

    Raises:
        PreprocessingError: it cannot be read, or holds something else.
    """
    try:
        text = files.read(path, _MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        reason = files.reason(error)
        raise PreprocessingError(
            f"preprocessing is {', '.join(get_args(Start))} or a file; {path} cannot be read: {reason}"
        ) from error
    except UnicodeDecodeError as error:
        raise PreprocessingError(f"{path.name} is not a text in UTF-8") from error
    is_json = text.lstrip().startswith("{")
    try:
        content = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PreprocessingError(f"{path.name} is not {'JSON' if is_json else 'TOML'}: {error}") from error
    if unknown := sorted(set(content) - set(_KEYS)):
        raise PreprocessingError(f"{path.name} has {', '.join(unknown)}; its keys are {', '.join(_KEYS)}")
    for name in ("resize", "crop"):
        if not isinstance(content.get(name, 1), int) or isinstance(content.get(name), bool):
            raise PreprocessingError(f"{path.name}: {name} is a whole number of pixels")
    for name in {"mean", "std"} & content.keys():
        content[name] = _floats(path, name, content[name])
    return Preprocessing(**content)


def settle(
    spec: ModelSpec,
    own: InputSpec,
    given: Preprocessing,
    known: weights.ImageNetWeights | None,
    file_name: str,
) -> Settled:
    """Decide the preprocessing: what is given, else what is known of the weights, else what is likely.

    Args:
        own: the input of the network as it was built, with the mean and std of the catalog's row.
        known: what torchvision says of these very weights; None where they are not torchvision's.

    Raises:
        PreprocessingError: it has to be chosen, does not fit the network, or crops more than there is.
    """
    mean, std = _normalisation(spec, own, given, known, file_name)
    try:
        pixels = dataclasses.replace(own, mean=mean, std=std)
    except ValueError as error:
        raise PreprocessingError(f"{spec.name}: {error}") from error
    side_px = max(pixels.height, pixels.width)
    # torchvision's resize is for its crop.
    kept = known if known is not None and given.crop is None else None
    resize_px = given.resize or (kept.resize_shorter_px if kept else side_px)
    if resize_px < side_px:
        raise PreprocessingError(f"resize to {resize_px} px leaves too little for the crop of {side_px} px")
    interpolation = given.interpolation or (known.interpolation if known else "bilinear")
    parts = {
        "resize": f"shorter side to {resize_px} px",
        "crop": f"centre of {pixels.height} x {pixels.width} px",
        "interpolation": interpolation,
        "mean": f"mean {_numbers(mean)}",
        "std": f"std {_numbers(std)}",
    }
    said = {name for name in parts if getattr(given, name) is not None}
    said |= {"mean", "std"} if given.start else set()
    said |= set(parts) - ({"resize"} if given.crop else set()) if known else set()
    assumed = [part for name, part in parts.items() if name not in said]
    whole = f"preprocessing: {', '.join(parts.values())}"
    origin = "torchvision's own" if given == Preprocessing() else "as given, the rest torchvision's"
    if assumed or known is None:
        origin = f"assumed: {', '.join(assumed)}" if assumed else "as given"
    return Settled(
        input_spec=pixels,
        resize_shorter_px=resize_px,
        interpolation=interpolation,
        summary=f"{whole} ({origin})",
        assumed=", ".join(assumed),
    )


def _normalisation(
    spec: ModelSpec,
    own: InputSpec,
    given: Preprocessing,
    known: weights.ImageNetWeights | None,
    file_name: str,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std, one number a channel.

    Raises:
        PreprocessingError: those of torchvision's weights and of the row differ, and neither is chosen.
    """
    pretrained = weights.imagenet(spec.name)
    if given.start == "finetuned" and pretrained is None:
        raise PreprocessingError(f"torchvision has no weights of {spec.name} that could be fine-tuned")
    if given.start == "finetuned" and pretrained is not None:
        return pretrained.input.mean, pretrained.input.std
    is_open = given.start is None and known is None and (given.mean is None or given.std is None)
    if is_open and pretrained is not None and pretrained.input.mean != spec.input.mean:
        raise PreprocessingError(
            f"{file_name}: --preprocessing finetuned, scratch or a file has to be chosen, or mean and std: "
            f"fine-tuned from torchvision's weights, which transform their input, {spec.name} wants "
            f"{_numbers(pretrained.input.mean[:1])} for both, trained from scratch the usual "
            f"{_numbers(spec.input.mean)} and {_numbers(spec.input.std)}"
        )
    base = known.input if known is not None and given.start is None else own
    mean, std = given.mean or base.mean, given.std or base.std
    return (mean * own.channels if len(mean) == 1 else mean), (std * own.channels if len(std) == 1 else std)


def _floats(path: Path, name: str, value: object) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    try:
        if all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values):
            return tuple(map(float, values))
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise PreprocessingError(f"{path.name}: {name} is a number or a list of numbers")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
