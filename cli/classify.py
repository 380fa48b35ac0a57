"""`modelzoo classify`."""

from pathlib import Path

from rich.table import Table

from cli.terminal.console import MAX_PATH, RefusedError, one_line, out, print_json, refusing
from client.client import Client, Label
from client.errors import ClientError

_BAR_CELLS = 16  # with the example of the README, a line of 80 characters
_MAX_FILE_BYTES = 1 << 30  # the most that a server's max_message_bytes may be


def run(images: list[Path], model: str, address: str, top_k: int | None, *, as_json: bool) -> None:
    """Send pictures as they are and print the labels."""
    with refusing(ClientError, ValueError):  # a name that is no text, say
        pictures = [_read(image) for image in images]
        try:
            with Client(address) as client:
                answers = client.classify(model, pictures, top_k=top_k)
        except ClientError as error:
            raise RefusedError(_explain(error, images, address)) from error
    if as_json:
        print_json(
            [
                {"picture": str(image), "labels": [vars(label) for label in labels]}
                for image, labels in zip(images, answers, strict=True)
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("picture", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("", min_width=_BAR_CELLS)
    for image, labels in zip(images, answers, strict=True):
        for rank, label in enumerate(labels):
            table.add_row(one_line(str(image), MAX_PATH) if rank == 0 else "", *_cells(label))
    out.print(table)


def _cells(label: Label) -> tuple[str, str, str]:
    likely = 0 <= label.probability <= 1  # what a server sends may be anything
    bar = "█" * round(label.probability * _BAR_CELLS) if likely else ""
    return one_line(label.text), f"{label.probability:.4g}" if not likely else f"{label.probability:.4f}", bar


def _read(image: Path) -> bytes:
    """Read a file; a device or a pipe may have no end.

    Raises:
        RefusedError: it cannot be read, or is larger than what any server takes.
    """
    try:
        with image.open("rb") as file:
            encoded = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"cannot read {image}: {(error.strerror or str(error)).lower()}") from error
    if len(encoded) > _MAX_FILE_BYTES:
        raise RefusedError(f"cannot send {image}: larger than {_MAX_FILE_BYTES:,} bytes")
    return encoded


def _explain(error: ClientError, images: list[Path], address: str) -> str:
    """Say what was refused in the user's own terms: the file's name, not its index."""
    for index, image in enumerate(images):
        if error.field == f"images[{index}]":
            return str(error).replace(error.field, str(image), 1)
    return error.describe(address)
