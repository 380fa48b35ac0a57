"""How pictures are prepared for an ONNX file: what a library does, what the file says, and what is assumed.

A single option comes before the preset, the preset before the file's own metadata. What none of them gives
is assumed, and a note says so: an answer from wrongly prepared pictures looks like any other.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import onnx
from onnx import TensorProto

from artifact.fitting import resizing
from artifact.manifest import MAX_SIDE_PX
from export.errors import one_line
from export.onnx_import import metadata
from export.onnx_import.onnx_file import OnnxImportError
from export.onnx_import.signature import ImportRequest, picture_type, sizes_are_given
from modelzoo.v1 import manifest_pb2
from zoo.spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec

RESIZE_MODES = {
    "shorter": manifest_pb2.RESIZE_MODE_SHORTER,
    "shorter-rounded": manifest_pb2.RESIZE_MODE_SHORTER_ROUNDED,
    "stretch": manifest_pb2.RESIZE_MODE_STRETCH,
    "letterbox": manifest_pb2.RESIZE_MODE_LETTERBOX,
    "line": manifest_pb2.RESIZE_MODE_LINE,
}
INTERPOLATIONS = {
    "nearest": manifest_pb2.INTERPOLATION_NEAREST,
    "bilinear": manifest_pb2.INTERPOLATION_BILINEAR,
    "bicubic": manifest_pb2.INTERPOLATION_BICUBIC,
    "opencv-bilinear": manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
    "lanczos": manifest_pb2.INTERPOLATION_LANCZOS,
    "box": manifest_pb2.INTERPOLATION_BOX,
    "hamming": manifest_pb2.INTERPOLATION_HAMMING,
    "opencv-nearest": manifest_pb2.INTERPOLATION_OPENCV_NEAREST,
    "opencv-bicubic": manifest_pb2.INTERPOLATION_OPENCV_BICUBIC,
    "opencv-area": manifest_pb2.INTERPOLATION_OPENCV_AREA,
    "opencv-lanczos": manifest_pb2.INTERPOLATION_OPENCV_LANCZOS,
}
# Where none is given: of a letterbox YOLO's, of a line PaddleOCR's, which is 0 on the scale -1..1.
_FILLS = {"letterbox": "#727272", "line": "#808080"}
_WHOLE_MODES = frozenset(_FILLS)  # nothing of a picture is cropped

_CROP_RATIO = 224 / 256  # of the resized shorter side, torchvision's and timm's default
_UNIT, _PIXELS = metadata.UNIT, metadata.PIXELS
_KERAS = ImportRequest(resize_mode="stretch", interpolation="nearest", channel_order="rgb")  # its load_img
PRESETS = {
    # torchvision's transforms.ImageClassification.
    "torchvision": ImportRequest(
        crop_ratio=_CROP_RATIO,
        resize_mode="shorter",
        interpolation="bilinear",
        channel_order="rgb",
        scale=_UNIT,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    # timm's create_transform of a default_cfg.
    "timm": ImportRequest(
        crop_ratio=_CROP_RATIO,
        resize_mode="shorter",
        interpolation="bicubic",
        channel_order="rgb",
        scale=_UNIT,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    # The three modes of keras.applications.imagenet_utils.preprocess_input.
    "keras-caffe": replace(
        _KERAS, channel_order="bgr", scale=_PIXELS, mean=(103.939, 116.779, 123.68), std=(1.0,)
    ),
    "keras-tf": replace(_KERAS, scale=(1 / 127.5,), mean=(1.0,), std=(1.0,)),
    "keras-torch": replace(_KERAS, scale=_UNIT, mean=IMAGENET_MEAN, std=IMAGENET_STD),
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
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
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


def completed(request: ImportRequest, model: onnx.ModelProto) -> tuple[ImportRequest, tuple[str, ...]]:
    """Add to a request what its preset and the file's metadata say.

    Returns:
        The request, and notes: what was read from the file, and what is assumed as nothing says it.

    Raises:
        OnnxImportError: there is no such preset, resize mode, interpolation or channel order.
    """
    _require_known(request)
    if request.preset is not None:
        preset = {field.name: getattr(PRESETS[request.preset], field.name) for field in fields(ImportRequest)}
        if _takes_pixels(model):  # and normalises by itself
            preset.update(dict.fromkeys(_NORMALISATION))
        if request.resize_mode in (*_WHOLE_MODES, "stretch"):  # the crop belongs to the preset's own mode
            preset["crop_ratio"] = None
        request = _filled(request, preset)
    own = metadata.preparation_of(model)
    if _takes_pixels(model) or any(getattr(request, name) is not None for name in _NORMALISATION):
        own = {name: value for name, value in own.items() if name not in _NORMALISATION}  # one of them is odd
    read = {name: value for name, value in own.items() if getattr(request, name) is None}
    if sizes_are_given(model):
        read = {name: value for name, value in read.items() if name not in ("height", "width")}
    notes = []
    if read:
        said = ", ".join(f"{name} {_text(value)}" for name, value in read.items())
        notes.append(one_line(f"read from the file's metadata: {said}"))
    request = _filled(request, read)
    if assumed := _assumed(request, model):
        notes.append(
            f"warning: assumed, as neither options nor the file say it: {', '.join(assumed)}; say what its "
            f"maker did by --preset {'|'.join(PRESETS)} or single options"
        )
    return request, tuple(notes)


def described(request: ImportRequest, spec: InputSpec) -> manifest_pb2.Preprocessing:
    """Describe how a picture becomes the pixels of an input.

    Args:
        request: completed.

    Raises:
        OnnxImportError: its parts contradict each other, or the input.
    """
    mode = request.resize_mode or "shorter"
    preprocessing = manifest_pb2.Preprocessing(
        interpolation=INTERPOLATIONS[request.interpolation or "bilinear"],
        resize_mode=RESIZE_MODES[mode],
        background=request.background or "",
    )
    if request.scaled_decoding:
        if preprocessing.interpolation not in resizing.ANTIALIASED:
            raise OnnxImportError(
                "scaled decoding needs an interpolation that averages over the source: "
                f"{', '.join(name for name, one in INTERPOLATIONS.items() if one in resizing.ANTIALIASED)}"
            )
        preprocessing.scaled_decoding = True
    if mode in _WHOLE_MODES:
        preprocessing.fill = request.fill or _FILLS[mode]
    elif request.fill is not None:
        raise OnnxImportError("a fill colour goes with the resize modes letterbox and line only")
    if mode == "stretch":
        if request.resize_px is not None or request.crop_ratio is not None:
            height_px, width_px = _lengths(request, (spec.height, spec.width))
            preprocessing.resize_height_px, preprocessing.resize_width_px = height_px, width_px
    elif mode in _WHOLE_MODES:
        if request.resize_px is not None:
            raise OnnxImportError(
                f"with the resize mode {mode} pictures are fitted to the input: --resize says nothing"
            )
    else:
        if request.resize_px is not None and len(set(request.resize_px)) > 1:
            raise OnnxImportError("height and width to resize to go with the resize mode stretch only")
        preprocessing.resize_shorter_px, _ = _lengths(request, (max(spec.height, spec.width),) * 2)
    return preprocessing


def _require_known(request: ImportRequest) -> None:
    if request.resize_mode in _WHOLE_MODES and request.crop_ratio is not None:
        raise OnnxImportError(f"with the resize mode {request.resize_mode} nothing is cropped")
    for what, said, known in (
        ("preset", request.preset, PRESETS),
        ("resize mode", request.resize_mode, RESIZE_MODES),
        ("interpolation", request.interpolation, INTERPOLATIONS),
        ("channel order", request.channel_order, ("rgb", "bgr")),
    ):
        if said is not None and said not in known:
            raise OnnxImportError(f"no {what} is called {said!r}; there are {', '.join(known)}")


def _lengths(request: ImportRequest, sides_px: tuple[int, int]) -> tuple[int, int]:
    """Return what two sides are resized to before they are cropped to ``sides_px``.

    Raises:
        OnnxImportError: it is less, or too much.
    """
    if request.resize_px is not None:
        lengths_px = (request.resize_px[0], request.resize_px[-1])
    else:
        exact_px = [side_px / (request.crop_ratio or 1.0) for side_px in sides_px]
        rounded = math.floor if request.preset in _ROUNDED_DOWN else round
        lengths_px = (rounded(exact_px[0]), rounded(exact_px[1]))
    for side_px, length_px in zip(sides_px, lengths_px, strict=True):
        if not side_px <= length_px <= MAX_SIDE_PX:
            raise OnnxImportError(
                f"a side cannot be resized to {length_px}: "
                f"{side_px} (the input's side) to {MAX_SIDE_PX} pixels are taken"
            )
    return lengths_px


def _filled(request: ImportRequest, values: Mapping[str, Any]) -> ImportRequest:
    """Take over what a request leaves open."""
    missing = {
        name: value for name, value in values.items() if value is not None and getattr(request, name) is None
    }
    return replace(request, **missing)


def _assumed(request: ImportRequest, model: onnx.ModelProto) -> list[str]:
    """Say what is assumed; nothing where a preset was named."""
    if request.preset is not None:
        return []
    assumed = []
    if not _takes_pixels(model) and all(getattr(request, name) is None for name in _NORMALISATION):
        assumed.append("values 0..1 without mean and std")
    if request.channel_order is None and not _is_grey(model):
        assumed.append("channels in the order RGB")
    if request.resize_mode is None and request.resize_px is None and request.crop_ratio is None:
        assumed.append("the shorter side resized to the input's, the centre cropped")
    if request.interpolation is None:
        assumed.append("bilinear interpolation")
    return assumed


def _text(value: object) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _takes_pixels(model: onnx.ModelProto) -> bool:
    found = picture_type(model)
    return found is not None and found.elem_type == TensorProto.UINT8


def _is_grey(model: onnx.ModelProto) -> bool:
    found = picture_type(model)
    sides = [dim.dim_value for dim in found.shape.dim[1:]] if found is not None else []
    return 1 in sides and 3 not in sides
