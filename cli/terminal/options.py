"""Options that several commands have."""

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
ScaledDecoding = Annotated[
    bool,
    typer.Option(
        "--scaled-decoding", help="Allow large JPEG files to be decoded at a part of their size: faster."
    ),
]
ImportLabels = Annotated[
    Path | None,
    typer.Option(
        help="File with a label a line, or a JSON list, or a JSON map of indices and labels.",
        show_default="those that the file names, or numbers",
        envvar="MODELZOO_LABELS",
    ),
]
Activation = Annotated[
    str,
    typer.Option(
        help="What makes probabilities of its scores: softmax (they sum to 1), sigmoid (one output, or "
        "independent labels) or none; auto looks at them. One that the file ends in is not applied twice."
    ),
]

MODELS = Path("models")
