"""How pictures are prepared for an ONNX file: what a library does, what the file says, and what is assumed.

A single option comes before the preset, the preset before the file's own metadata. What none of them gives
is assumed, and a note says so: an answer from wrongly prepared pictures looks like any other.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import onnx
from onnx import TensorProto

from artifact.fitting import resizing
from artifact.manifest import MAX_SIDE_PX
from export.errors import one_line
from export.graph import editing
from export.onnx_import.onnx_file import OnnxImportError
from export.onnx_import.signature import ImportRequest
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec

RESIZE_MODES = {
    "shorter": manifest_pb2.RESIZE_MODE_SHORTER,
    "shorter-rounded": manifest_pb2.RESIZE_MODE_SHORTER_ROUNDED,
    "stretch": manifest_pb2.RESIZE_MODE_STRETCH,
    "letterbox": manifest_pb2.RESIZE_MODE_LETTERBOX,
}
INTERPOLATIONS = {
    "nearest": manifest_pb2.INTERPOLATION_NEAREST,
    "bilinear": manifest_pb2.INTERPOLATION_BILINEAR,
    "bicubic": manifest_pb2.INTERPOLATION_BICUBIC,
    "opencv-bilinear": manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
    "opencv-nearest": manifest_pb2.INTERPOLATION_OPENCV_NEAREST,
}
_FILL = "#727272"  # of a letterbox, as YOLO has it

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CROP_RATIO = 224 / 256  # of the resized shorter side, torchvision's and timm's default
_UNIT, _PIXELS = (1 / 255,), (1.0,)  # scales: values 0..1 and 0..255
_KERAS = ImportRequest(resize_mode="stretch", interpolation="nearest", channel_order="rgb")  # its load_img
PRESETS = {
    # torchvision's transforms.ImageClassification.
    "torchvision": ImportRequest(
        crop_ratio=_CROP_RATIO,
        resize_mode="shorter",
        interpolation="bilinear",
        channel_order="rgb",
        scale=_UNIT,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    # timm's create_transform of a default_cfg.
    "timm": ImportRequest(
        crop_ratio=_CROP_RATIO,
        resize_mode="shorter",
        interpolation="bicubic",
        channel_order="rgb",
        scale=_UNIT,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    # The three modes of keras.applications.imagenet_utils.preprocess_input.
    "keras-caffe": replace(
        _KERAS, channel_order="bgr", scale=_PIXELS, mean=(103.939, 116.779, 123.68), std=(1.0,)
    ),
    "keras-tf": replace(_KERAS, scale=(1 / 127.5,), mean=(1.0,), std=(1.0,)),
    "keras-torch": replace(_KERAS, scale=_UNIT, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    # cv2.imread and the defaults of cv2.dnn.blobFromImage.
    "opencv": ImportRequest(
        resize_mode="stretch",
        interpolation="opencv-bilinear",
        channel_order="bgr",
        scale=_PIXELS,
        mean=(0.0,),
        std=(1.0,),
    ),
    # PaddleClas's DecodeImage, ResizeImage, CropImage and NormalizeImage.
    "paddle": ImportRequest(
        crop_ratio=_CROP_RATIO,
        resize_mode="shorter-rounded",
        interpolation="opencv-bilinear",
        channel_order="rgb",
        scale=_UNIT,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    # Values 0..255 as they are.
    "raw": ImportRequest(
        resize_mode="shorter",
        interpolation="bilinear",
        channel_order="rgb",
        scale=_PIXELS,
        mean=(0.0,),
        std=(1.0,),
    ),
}
_ROUNDED_DOWN = (
    None,
    "timm",
)  # presets by which the side before the crop is; the others round to the nearest

_NORMALISATION = ("scale", "mean", "std")
_MAX_METADATA_CHARACTERS = 200
_MAX_UNIT_VALUE = 2.0  # a mean or std above it is meant for values 0..255
# ONNX's own metadata of pictures (docs/MetadataProps.md).
_PIXEL_FORMAT, _PIXEL_RANGE = "Image.BitmapPixelFormat", "Image.NominalPixelRange"
_CHANNEL_ORDERS = {"Rgb8": "rgb", "Rgba8": "rgb", "Bgr8": "bgr", "Bgra8": "bgr"}
_RANGES: dict[str, dict[str, Any]] = {
    "NominalRange_0_255": {"scale": _PIXELS},
    "Normalized_0_1": {"scale": _UNIT},
    "Normalized_1_1": {"scale": _UNIT, "mean": (0.5,), "std": (0.5,)},
}


def completed(request: ImportRequest, model: onnx.ModelProto) -> tuple[ImportRequest, tuple[str, ...]]:
    """Add to a request what its preset and the file's metadata say.

    Returns:
        The request, and notes: what was read from the file, and what is assumed as nothing says it.

    Raises:
        OnnxImportError: there is no such preset, resize mode, interpolation or channel order.
    """
    for what, said, known in (
        ("preset", request.preset, PRESETS),
        ("resize mode", request.resize_mode, RESIZE_MODES),
        ("interpolation", request.interpolation, INTERPOLATIONS),
        ("channel order", request.channel_order, ("rgb", "bgr")),
    ):
        if said is not None and said not in known:
            raise OnnxImportError(f"no {what} is called {said!r}; there are {', '.join(known)}")
    if request.preset is not None:
        preset = {field.name: getattr(PRESETS[request.preset], field.name) for field in fields(ImportRequest)}
        if _takes_pixels(model):  # and normalises by itself
            preset.update(dict.fromkeys(_NORMALISATION))
        request = _filled(request, preset)
    own = _metadata({entry.key: entry.value for entry in model.metadata_props})
    if _takes_pixels(model) or any(getattr(request, name) is not None for name in _NORMALISATION):
        own = {name: value for name, value in own.items() if name not in _NORMALISATION}  # one of them is odd
    read = {name: value for name, value in own.items() if getattr(request, name) is None}
    if _sizes_are_given(model):
        read = {name: value for name, value in read.items() if name not in ("height", "width")}
    notes = []
    if read:
        said = ", ".join(f"{name} {_text(value)}" for name, value in read.items())
        notes.append(one_line(f"read from the file's metadata: {said}"))
    request = _filled(request, read)
    if assumed := _assumed(request, takes_pixels=_takes_pixels(model)):
        notes.append(
            f"warning: assumed, as neither options nor the file say it: {', '.join(assumed)}; "
            f"--preset {'|'.join(PRESETS)} says what its maker did"
        )
    return request, tuple(notes)


def described(request: ImportRequest, spec: InputSpec) -> manifest_pb2.Preprocessing:
    """Describe how a picture becomes the pixels of an input.

    Args:
        request: completed.

    Raises:
        OnnxImportError: its parts contradict each other, or the input.
    """
    mode = RESIZE_MODES[request.resize_mode or "shorter"]
    preprocessing = manifest_pb2.Preprocessing(
        interpolation=INTERPOLATIONS[request.interpolation or "bilinear"],
        resize_mode=mode,
        background=request.background or "",
    )
    if mode == manifest_pb2.RESIZE_MODE_LETTERBOX:
        preprocessing.fill = request.fill or _FILL
    elif request.fill is not None:
        raise OnnxImportError("a fill colour goes with the resize mode letterbox only")
    longer_px = max(spec.height, spec.width)
    if request.resize_mode in ("stretch", "letterbox"):
        if request.resize_px is not None:
            raise OnnxImportError(
                f"with the resize mode {request.resize_mode} pictures are fitted to the input: "
                "a length of the shorter side says nothing"
            )
        return preprocessing
    resize_px = request.resize_px
    if resize_px is None:
        exact_px = longer_px / (request.crop_ratio or 1.0)
        resize_px = math.floor(exact_px) if request.preset in _ROUNDED_DOWN else round(exact_px)
    if not longer_px <= resize_px <= MAX_SIDE_PX:
        raise OnnxImportError(
            f"the shorter side cannot be resized to {resize_px}: "
            f"{longer_px} (the input's side) to {MAX_SIDE_PX} pixels are taken"
        )
    preprocessing.resize_shorter_px = resize_px
    return preprocessing


def allow_scaled_decoding(preprocessing: manifest_pb2.Preprocessing) -> None:
    """Let large JPEG files be decoded at a part of their size.

    Raises:
        OnnxImportError: the pixels would differ by more than a little.
    """
    if preprocessing.interpolation not in resizing.ANTIALIASED:
        raise OnnxImportError(
            "scaled decoding needs an interpolation that averages over the source: bilinear or bicubic"
        )
    preprocessing.scaled_decoding = True


def _filled(request: ImportRequest, values: Mapping[str, Any]) -> ImportRequest:
    """Take over what a request leaves open."""
    missing = {
        name: value for name, value in values.items() if value is not None and getattr(request, name) is None
    }
    return replace(request, **missing)


def _assumed(request: ImportRequest, *, takes_pixels: bool) -> list[str]:
    """Say what is assumed; nothing where a preset was named."""
    if request.preset is not None:
        return []
    assumed = []
    if not takes_pixels and all(getattr(request, name) is None for name in _NORMALISATION):
        assumed.append("values 0..1 without mean and std")
    if request.channel_order is None:
        assumed.append("channels in the order RGB")
    if request.resize_mode is None and request.resize_px is None and request.crop_ratio is None:
        assumed.append("the shorter side resized to the input's, the centre cropped")
    if request.interpolation is None:
        assumed.append("bilinear interpolation")
    return assumed


def _metadata(said: Mapping[str, str]) -> dict[str, Any]:
    """Read what exporters write about pictures; what makes no sense is passed over."""
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
        own["scale"] = _PIXELS
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


def _text(value: object) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _picture_type(model: onnx.ModelProto) -> onnx.TypeProto.Tensor | None:
    """Return the type of the one input that is no weight, where there is one."""
    inputs = editing.inputs(model.graph)
    return inputs[0].type.tensor_type if len(inputs) == 1 else None


def _takes_pixels(model: onnx.ModelProto) -> bool:
    found = _picture_type(model)
    return found is not None and found.elem_type == TensorProto.UINT8


def _sizes_are_given(model: onnx.ModelProto) -> bool:
    """Return whether height and width stand in the graph itself: at least three axes are fixed."""
    found = _picture_type(model)
    return found is not None and sum(dim.dim_value > 0 for dim in found.shape.dim[1:]) >= 3
