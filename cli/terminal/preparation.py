"""Options of `import`, most of which say how pictures are prepared for a network, and how they are read."""

import re
from pathlib import Path
from typing import Annotated

import typer

from cli.terminal.console import RefusedError

Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="HxW[:nchw|nhwc]",
        help="Size and layout of its input, where the file leaves them open.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="torchvision|timm|keras-caffe|keras-tf|keras-torch|opencv|paddle|raw",
        help="Library it was trained with: sets all of the following, each of which overrides its part.",
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Length in pixels that the shorter side of a picture is resized to before the crop; with "
        "--resize-mode stretch of both sides, or height and width.",
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW|RATIO",
        help="What is then cropped, its centre: the network's input in pixels, or, up to 1, the input's side "
        "by that length, as 0.875 or 224/256.",
    ),
]
ResizeMode = Annotated[
    str | None,
    typer.Option(
        metavar="shorter|shorter-rounded|stretch|letterbox|line",
        help="The shorter side resized and the centre cropped, both rounded as torchvision or as PaddleClas "
        "does; both sides stretched; the whole picture within borders; or a line of text, from the left.",
    ),
]
Fill = Annotated[
    str | None,
    typer.Option(
        metavar="COLOUR",
        help="Of what is left beside a letterbox or a line: R,G,B or #rrggbb.",
        show_default="#727272, of a line #808080",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        metavar="[opencv-]nearest|[opencv-]bilinear|[opencv-]bicubic|[opencv-]lanczos|box|hamming|opencv-area",
        help="Pillow's, which average when they shrink (antialias), or OpenCV's, which do not, but area.",
    ),
]
Channels = Annotated[
    str | None, typer.Option(metavar="rgb|bgr", help="Order in which it takes the channels of a picture.")
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="What pixel values 0..255 are multiplied by, once or for each channel by commas.",
        show_default="1/255",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Subtracted from the scaled values, once or for each channel, by commas, in its order."
    ),
]
Std = Annotated[str | None, typer.Option(help="What they are then divided by, in the same way.")]
Output = Annotated[str | None, typer.Option(help="Name of its scores, where it has several outputs.")]
Background = Annotated[
    str | None,
    typer.Option(
        metavar="COLOUR",
        help="Colour that transparent pictures are put on, here and in the server: white, black, #rrggbb.",
        show_default="transparency is dropped; white where most pictures of a folder have some",
    ),
]

Labels = Annotated[
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

_SIDES = re.compile(r"(?P<height>\d{1,5})(x(?P<width>\d{1,5}))?")
_NAMED = {"white": "#ffffff", "black": "#000000"}


def colour(option: str, said: str | None) -> str | None:
    """Read a colour.

    Returns:
        It as ``#rrggbb``.

    Raises:
        RefusedError: it is none.
    """
    if said is None:
        return None
    text = _NAMED.get(said.lower(), said.lower())
    if "," in text:
        parts = text.split(",")
        if len(parts) == 3 and all(part.strip().isdecimal() and int(part) <= 255 for part in parts):
            text = "#" + "".join(f"{int(part):02x}" for part in parts)
    if len(text) == 7 and text[0] == "#" and all(digit in "0123456789abcdef" for digit in text[1:]):
        return text
    raise RefusedError(f"{option} {said!r} is no colour: white, black, #rrggbb or R,G,B of 0 to 255")


def numbers(option: str, said: str | None, *, fractions: bool = False) -> tuple[float, ...] | None:
    """Read numbers, separated by commas.

    Args:
        fractions: whether ``1/255`` is one, too.

    Raises:
        RefusedError: one is none.
    """
    if said is None:
        return None
    values = []
    try:
        for part in said.split(","):
            above, slash, below = part.partition("/") if fractions else (part, "", "")
            values.append(float(above) / (float(below) if slash else 1.0))
    except (ValueError, ZeroDivisionError):
        kinds = "numbers or fractions" if fractions else "numbers"
        raise RefusedError(f"{option} {said!r} is not {kinds} separated by commas") from None
    return tuple(values)


def sides(option: str, said: str | None) -> tuple[int, int] | None:
    """Read a length of both sides, or height and width, in pixels.

    Raises:
        RefusedError: it is neither.
    """
    if said is None:
        return None
    match = _SIDES.fullmatch(said)
    if match is None:
        raise RefusedError(f"{option} {said!r} is neither N nor HxW, in pixels")
    return int(match["height"]), int(match["width"] or match["height"])


def cropped(said: str | None) -> tuple[tuple[int, int] | None, float | None]:
    """Read what `--crop` says.

    Returns:
        Height and width in pixels, or a ratio.

    Raises:
        RefusedError: it is neither.
    """
    if said is None:
        return None, None
    if _SIDES.fullmatch(said) and said != "1":
        return sides("--crop", said), None
    found = numbers("--crop", said, fractions=True) or ()
    if len(found) != 1 or not 0 < found[0] <= 1:
        raise RefusedError(f"--crop {said!r} is neither a size in pixels nor a ratio up to 1")
    return None, found[0]
