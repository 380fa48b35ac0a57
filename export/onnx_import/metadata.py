"""What an ONNX file says beside its graph: how its pictures were prepared, and its labels."""

import json
import math
from collections.abc import Iterator
from typing import Any

import onnx

from artifact.manifest import MAX_SIDE_PX
from export.data import labels as label_files
from export.errors import one_line

UNIT, PIXELS = (1 / 255,), (1.0,)  # scales: values 0..1 and 0..255
_MAX_METADATA_CHARACTERS = 200
_MAX_CONFIGURATION_CHARACTERS = 1 << 20  # of JSON
_MAX_UNIT_VALUE = 2.0  # a mean or std above it is meant for values 0..255
# ONNX's own metadata of pictures (docs/MetadataProps.md).
_PIXEL_FORMAT, _PIXEL_RANGE = "Image.BitmapPixelFormat", "Image.NominalPixelRange"
_CHANNEL_ORDERS = {"Rgb8": "rgb", "Rgba8": "rgb", "Bgr8": "bgr", "Bgra8": "bgr"}
_RANGES: dict[str, dict[str, Any]] = {
    "NominalRange_0_255": {"scale": PIXELS},
    "Normalized_0_1": {"scale": UNIT},
    "Normalized_1_1": {"scale": UNIT, "mean": (0.5,), "std": (0.5,)},
}

# Keys that hold labels, without case and punctuation: YOLO's, PaddleOCR's, fastai's, and others'.
_LABEL_KEYS = (
    "names",
    "character",
    "characters",
    "classes",
    "labels",
    "classnames",
    "classlabels",
    "classlist",
    "labelnames",
    "labellist",
    "labelmap",
    "categories",
    "vocab",
    "id2label",
    "label2id",
    "idx2label",
    "idxtoclass",
    "indextoname",
    "classtoidx",
)
_MIN_PLAIN_LABELS = 3  # of a list under a key that says nothing: two texts may be anything


def texts_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the texts that a file carries, by their keys."""
    return {entry.key: entry.value for entry in model.metadata_props}


def labels_of(model: onnx.ModelProto, count: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """Find K labels: under a key that is known to hold some, within a configuration, or else in any list.

    Args:
        count: K.

    Returns:
        The labels, None where there are none; and sentences of what was taken, or passed over and why.
    """
    texts = texts_of(model)
    candidates = [(_plain(key), key, text) for key, text in texts.items()]
    candidates += [
        (_plain(inner), f"{key}.{inner}", listed)
        for key, text in texts.items()
        for inner, listed in _within(text)
    ]
    known = [candidate for candidate in candidates if candidate[0] in _LABEL_KEYS]
    notes = []
    for _, key, text in sorted(known, key=lambda candidate: _LABEL_KEYS.index(candidate[0])):
        try:
            found = label_files.parse(text, f"the file's own {key!r}")
        except label_files.LabelsError as error:
            notes.append(one_line(f"its own labels are not taken: {error}"))
            continue
        if len(found) == count:
            return found, [one_line(f"labels are the file's own, its {key!r}")]
        notes.append(one_line(f"its own labels are not taken: {key!r} has {len(found)} for {count}"))
    return _listed(texts, count) if not notes else (None, notes)


def _listed(texts: dict[str, str], count: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """Find K different texts in a list or a map under a key that says nothing of labels."""
    for key, text in texts.items():
        if count < _MIN_PLAIN_LABELS or text.lstrip()[:1] not in ("[", "{"):
            continue
        try:
            found = label_files.parse(text, key)
        except label_files.LabelsError:
            continue
        if len(set(found)) == count == len(found) and not all(map(_is_number, found)):
            return found, [
                one_line(f"labels are the file's own, its {key!r}, which has as many as there are scores")
            ]
    return None, []


def _within(text: str) -> Iterator[tuple[str, str]]:
    """Go through the entries of a JSON map under keys that are known to hold labels."""
    if not text.lstrip().startswith("{") or len(text) > _MAX_CONFIGURATION_CHARACTERS:
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    for key, value in found.items():
        if _plain(key) in _LABEL_KEYS and isinstance(value, list | dict):
            yield key, json.dumps(value)


def _plain(key: str) -> str:
    return "".join(character for character in key.lower() if character.isalnum())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def preparation_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Read what exporters write about the preparation of pictures; what makes no sense is passed over.

    Returns:
        Values by their names in `signature.ImportRequest`.
    """
    said = texts_of(model)
    own: dict[str, Any] = dict(_RANGES.get(said.get(_PIXEL_RANGE, ""), {}))
    if order := _CHANNEL_ORDERS.get(said.get(_PIXEL_FORMAT, "")):
        own["channel_order"] = order
    mean, std = (
        next((found for key in keys if (found := _numbers(said.get(key)))), None)
        for keys in (("mean", "image_mean"), ("std", "image_std"))
    )
    if std is not None and min(std) <= 0:
        mean = std = None
    own.update({name: values for name, values in (("mean", mean), ("std", std)) if values is not None})
    if max((abs(value) for values in (mean, std) if values for value in values), default=0) > _MAX_UNIT_VALUE:
        own["scale"] = PIXELS
    for key in ("size", "imgsz", "input_size"):
        sides = _numbers(said.get(key))
        if sides and all(side.is_integer() and 1 <= side <= MAX_SIDE_PX for side in sides):
            # One side; height and width; or channels, height and width.
            own["height"], own["width"] = int(sides[-2:][0]), int(sides[-1])
            break
    if (ratio := _numbers(said.get("crop_pct"))) and len(ratio) == 1 and 0.1 <= ratio[0] <= 1:
        own["crop_ratio"] = ratio[0]
    if (filter_ := said.get("interpolation")) in ("bilinear", "bicubic", "nearest"):
        own["interpolation"] = filter_
    if said.get("crop_mode") == "squash":  # timm's
        own["resize_mode"] = "stretch"
    return own


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """Read one to three finite numbers, as a JSON list or by commas; None where it is something else."""
    if text is None or len(text) > _MAX_METADATA_CHARACTERS:
        return None
    try:
        listed = json.loads(f"[{text.strip().strip('()[]')}]")
        values = tuple(float(value) for value in listed if not isinstance(value, (bool, str)))
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None
    whole = 1 <= len(values) == len(listed) <= 3 and all(map(math.isfinite, values))
    return values if whole else None
