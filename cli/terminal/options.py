"""Options that several commands have, and those of `export`."""

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
Weights = Annotated[
    str,
    typer.Option(
        help="What to train on: digits, mnist or a folder of pictures; what to load: imagenet or a file; "
        "or random.",
        envvar="MODELZOO_WEIGHTS",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="File with a label a line, or JSON, for weights from a file.", envvar="MODELZOO_LABELS"
    ),
]
Cache = Annotated[Path, typer.Option(help="Folder of downloaded datasets.", envvar="MODELZOO_CACHE")]
Absent = Annotated[bool, typer.Option("--absent", help="Pass over what the repository holds already.")]
Mean = Annotated[
    str | None,
    typer.Option(help="Of weights from a file: subtracted from each channel on the 0..1 scale, by commas."),
]
Std = Annotated[str | None, typer.Option(help="What each channel is then divided by, by commas.")]
Resize = Annotated[int | None, typer.Option(help="Shorter side that pictures are resized to, in pixels.")]
Crop = Annotated[
    int | None, typer.Option(help="Side of the centre that is then cropped, the network's input, in pixels.")
]
Interpolation = Annotated[str | None, typer.Option(help="How they are resized: bilinear or bicubic.")]
Preprocessing = Annotated[
    str | None,
    typer.Option(
        metavar="finetuned|scratch|FILE",
        help="Of weights from a file: mean and std by where their training started, from torchvision's "
        "weights or from scratch; or a JSON or TOML file with mean, std, resize, crop, interpolation.",
    ),
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a folder with a picture file that cannot be used.")
]
MODELS = Path("models")
