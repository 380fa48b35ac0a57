"""`modelzoo classify`."""

from pathlib import Path

from rich.table import Table

from cli.console import RefusedError, out, print_json, refusing
from client.client import Client, ClientError, Label

_BAR_CELLS = 16  # with the example of the README, a line of 80 characters


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
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("", min_width=_BAR_CELLS)
    for image, labels in zip(images, answers, strict=True):
        for rank, label in enumerate(labels):
            table.add_row(str(image) if rank == 0 else "", *_cells(label))
    out.print(table)


def _cells(label: Label) -> tuple[str, str, str]:
    return label.text, f"{label.probability:.4f}", "█" * round(label.probability * _BAR_CELLS)


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise RefusedError(f"cannot read {image}: {(error.strerror or str(error)).lower()}") from error


def _explain(error: ClientError, images: list[Path], address: str) -> str:
    """Say what was refused in the user's own terms: the file's name, not its index."""
    if error.code.name == "UNAVAILABLE" and not error.from_server:
        return f"no server answers at {address}"
    for index, image in enumerate(images):
        if error.field == f"images[{index}]":
            return str(error).replace(error.field, str(image), 1)
    return str(error)
