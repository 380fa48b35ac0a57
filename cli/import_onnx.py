"""`modelzoo import`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cli.export import Bars, numbers, precisions_of, told
from cli.terminal.console import RefusedError, err, out, refusing

if TYPE_CHECKING:
    from export.onnx_import.conversion import ImportRequest

_INPUT = re.compile(r"(?P<height>\d{1,4})x(?P<width>\d{1,4})(:(?P<layout>nchw|nhwc))?")


def run(
    path: Path,
    precision: str | None,
    input_: str | None,
    mean: str | None,
    std: str | None,
    output: str | None,
    labels: Path | None,
    **options: Any,
) -> None:
    """Import one file.

    Args:
        precision: names separated by commas; fp32 alone when None.
        input_: ``HxW``, and after a colon the layout, where the file leaves them open.
        options: the other arguments of `pipeline.import_`.
    """
    with refusing():
        from artifact.errors import ArtifactError
        from export import pipeline
        from export.errors import ExportError

    with refusing(ArtifactError, ExportError, OSError):
        request = _request(input_, mean, std, output, labels)
        with Bars(options["name"]) as bars:
            exported = pipeline.import_(
                path, request, precisions=precisions_of(precision) or ["fp32"], observer=bars, **options
            )
    for line in told(exported):
        out.print(line, soft_wrap=True)
    for change in exported.manifest.deviations:
        err.print(f"changed: {change}")


def _request(
    input_: str | None, mean: str | None, std: str | None, output: str | None, labels: Path | None
) -> "ImportRequest":
    from export.data import labels as label_files
    from export.onnx_import.conversion import ImportRequest

    match = _INPUT.fullmatch(input_) if input_ is not None else None
    if input_ is not None and match is None:
        raise RefusedError(f"--input {input_!r} is not HxW, HxW:nchw or HxW:nhwc")
    layouts: dict[str | None, Literal["nchw", "nhwc"]] = {"nchw": "nchw", "nhwc": "nhwc"}
    return ImportRequest(
        layout=layouts.get(match["layout"] if match else None, "auto"),
        height=int(match["height"]) if match else None,
        width=int(match["width"]) if match else None,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        output=output,
        labels=label_files.read(labels) if labels is not None else None,
    )
