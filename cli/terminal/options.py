"""Options that several commands have, or that take many lines."""

from pathlib import Path
from typing import Annotated

import typer

Repository = Annotated[
    Path, typer.Option(help="Folder of the exported models.", envvar="MODELZOO_REPOSITORY")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Address = Annotated[str, typer.Option(help="host:port of the server.", envvar="MODELZOO_ADDRESS")]
TopK = Annotated[
    int | None,
    typer.Option(
        help="Labels per picture.", show_default="5", envvar="MODELZOO_TOP_K", min=-(2**31), max=2**31 - 1
    ),
]
Precisions = Annotated[
    str | None,
    typer.Option(
        help="Of fp32, fp16, int8, separated by commas.",
        show_default="all of a trained network, fp32 of a loaded one",
        envvar="MODELZOO_PRECISIONS",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures to judge precisions on, where there is no held-out set.",
        envvar="MODELZOO_CALIBRATION",
    ),
]
Ungated = Annotated[
    bool, typer.Option("--ungated", help="Publish precisions that did not pass their gates, too.")
]
Mirror = Annotated[
    bool | None,
    typer.Option(
        "--mirror/--no-mirror",
        help="Mirror half of the training pictures, or none.",
        show_default="mirrored, unless a label suggests a side: left, digits, letters, text, signs, arrows",
        envvar="MODELZOO_MIRROR",
    ),
]
ScaledDecoding = Annotated[
    bool,
    typer.Option(
        "--scaled-decoding", help="Allow large JPEG files to be decoded at a part of their size: faster."
    ),
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a folder with a picture file that cannot be used.")
]

MODELS = Path("models")
