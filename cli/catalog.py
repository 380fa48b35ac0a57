"""`modelzoo list`."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from cli.console import out, print_json, refusing

if TYPE_CHECKING:
    from artifact import layout


def show(repository: Path, *, as_json: bool) -> None:
    """Print the catalog with what is exported into a repository."""
    with refusing():
        from artifact import layout
        from zoo import weights
        from zoo.catalog import CATALOG

    exported: dict[str, list[str]] = {}
    with refusing(OSError):
        for entry in layout.newest(repository):
            architecture, said = _said(entry)
            exported.setdefault(architecture, []).append(said)
    trainable = ["digits", "mnist", "DIR"]
    known = {
        spec.name: trainable + ["imagenet"] * (weights.imagenet(spec.name) is not None) for spec in CATALOG
    }
    if as_json:
        print_json(
            [
                {
                    "name": spec.name,
                    "year": spec.paper.year if spec.paper else None,
                    "parameters": spec.parameters,
                    "paper": spec.paper.title if spec.paper else None,
                    "link": spec.paper.link if spec.paper else None,
                    "deviations": list(spec.deviations),
                    "weights": known[spec.name],
                    "exported": exported.get(spec.name, []),
                }
                for spec in CATALOG
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("name", no_wrap=True)
    table.add_column("year", justify="right")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("paper", no_wrap=True, ratio=1)  # cut on a narrow terminal; --json has it whole
    table.add_column("weights", no_wrap=True)
    table.add_column("exported", no_wrap=True)
    for spec in CATALOG:
        paper = spec.paper
        table.add_row(
            spec.name,
            str(paper.year) if paper else "-",
            f"{spec.parameters:,}",
            f"{paper.authors}: {paper.title}" if paper else "none: a notebook exercise",
            " ".join(known[spec.name]),
            "\n".join(exported.get(spec.name, [])) or "-",
        )
    out.print(table)


def _said(entry: "layout.Entry") -> tuple[str, str]:
    """Give the architecture of an exported model, and how good it is."""
    from artifact import manifest
    from artifact.errors import ArtifactError

    name = f"{entry.name}/{entry.version}"
    try:
        described = manifest.read(entry.folder)
    except ArtifactError as error:
        return entry.name.partition("-")[0], f"{name} (damaged: {error})"
    accuracy = described.precisions[0].accuracy
    if not accuracy.images:
        return described.architecture, f"{name} (accuracy not measured)"
    return described.architecture, f"{name} ({accuracy.correct / accuracy.images:.2%})"
