"""`modelzoo import`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from cli.export import Bars, precisions_of, told
from cli.terminal.console import RefusedError, err, out, refusing
from cli.terminal.preparation import colour, cropped, numbers, sides

if TYPE_CHECKING:
    from export.onnx_import.conversion import ImportRequest

# The options --preset, --resize, --crop, --resize-mode, --fill, --interpolation, --channels, --scale and
# --background.
Preparation = tuple[
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
]
_INPUT = re.compile(r"(?P<height>\d{1,4})x(?P<width>\d{1,4})(:(?P<layout>nchw|nhwc))?")


def run(
    path: Path,
    precision: str | None,
    input_: str | None,
    mean: str | None,
    std: str | None,
    output: str | None,
    activation: str,
    labels: Path | None,
    preparation: Preparation,
    *,
    scaled_decoding: bool,
    **options: Any,
) -> None:
    """Import one file.

    Args:
        precision: names separated by commas; fp32 alone when None.
        input_: ``HxW``, and after a colon the layout, where the file leaves them open.
        activation: what makes probabilities of the scores, `auto` to look at them.
        preparation: of pictures, as the options say it.
        scaled_decoding: whether large JPEG files may be decoded at a part of their size.
        options: the other arguments of `pipeline.import_`.
    """
    with refusing():
        from artifact.errors import ArtifactError
        from export import pipeline
        from export.errors import ExportError

    with refusing(ArtifactError, ExportError, OSError):
        request = _request(
            input_, mean, std, output, activation, labels, preparation, scaled_decoding=scaled_decoding
        )
        with Bars(options["name"]) as bars:
            exported = pipeline.import_(
                path, request, precisions=precisions_of(precision) or ["fp32"], observer=bars, **options
            )
    for line in told(exported):
        out.print(line, soft_wrap=True)
    for change in exported.manifest.deviations:
        err.print(f"changed: {change}")
    if exported.manifest.multi_label:
        err.print("warning: labels are independent; the probabilities of a picture need not sum to 1")


def _request(
    input_: str | None,
    mean: str | None,
    std: str | None,
    output: str | None,
    activation: str,
    labels: Path | None,
    preparation: Preparation,
    *,
    scaled_decoding: bool,
) -> "ImportRequest":
    from export.data import labels as label_files
    from export.onnx_import.activation import Choice
    from export.onnx_import.conversion import ImportRequest

    match = _INPUT.fullmatch(input_) if input_ is not None else None
    if input_ is not None and match is None:
        raise RefusedError(f"--input {input_!r} is not HxW, HxW:nchw or HxW:nhwc")
    layouts: dict[str | None, Literal["nchw", "nhwc"]] = {"nchw": "nchw", "nhwc": "nhwc"}
    if activation not in get_args(Choice):
        raise RefusedError(f"--activation {activation!r} is not one of {', '.join(get_args(Choice))}")
    preset, resize, crop, resize_mode, fill, interpolation, channels, factors, background = preparation
    cropped_px, crop_ratio = cropped(crop)
    if cropped_px is not None and match is not None and cropped_px != _sides(match):
        raise RefusedError(f"--crop {crop} is not the size of --input {input_}, which is what is cropped to")
    height_px, width_px = cropped_px or (_sides(match) if match is not None else (None, None))
    return ImportRequest(
        layout=layouts.get(match["layout"] if match else None, "auto"),
        height=height_px,
        width=width_px,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        output=output,
        activation=cast("Choice", activation),
        labels=label_files.read(labels) if labels is not None else None,
        preset=preset,
        resize_px=sides("--resize", resize),
        crop_ratio=crop_ratio,
        resize_mode=resize_mode,
        fill=colour("--fill", fill),
        interpolation=interpolation,
        channel_order=channels,
        scale=numbers("--scale", factors, fractions=True),
        background=colour("--background", background),
        scaled_decoding=scaled_decoding,
    )


def _sides(match: re.Match[str]) -> tuple[int, int]:
    return int(match["height"]), int(match["width"])
