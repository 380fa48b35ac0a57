"""`modelzoo list`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from cli.terminal.console import on_terminal, one_line, out, print_json, refusing

_WITH_PAPER = 120  # columns of a terminal; on a narrower one, a paper's few letters would say nothing


@dataclass(frozen=True)
class _Exported:
    """A model of the repository.

    Attributes:
        accuracy_ratio: of its fp32 file on held-out pictures; None where it was not measured.
        damage: what is wrong with it, where something is.
    """

    name: str
    version: int
    accuracy_ratio: float | None
    damage: str | None

    def __str__(self) -> str:
        """Write it in a line."""
        ratio = self.accuracy_ratio
        note = self.damage or ("accuracy not measured" if ratio is None else f"{ratio:.2%}")
        return f"{one_line(self.name)}/{self.version} ({one_line(note)})"


def show(repository: Path, *, as_json: bool) -> None:
    """Print the catalog with what is exported into a repository."""
    with refusing():
        from zoo import weights
        from zoo.catalog import CATALOG

    with refusing(OSError):
        exported = _exported(repository)
    trained_elsewhere = {spec.name for spec in CATALOG if weights.has_imagenet(spec.name)}
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
                    "weights": ["digits", "mnist", "DIR"] + ["imagenet"] * (spec.name in trained_elsewhere),
                    "exported": [dataclasses.asdict(one) for one in exported.get(spec.name, [])],
                }
                for spec in CATALOG
            ]
        )
        return
    with_paper = out.width >= _WITH_PAPER
    # On a terminal the paper takes what the others leave, and is cut there.
    table = Table(box=None, pad_edge=False, header_style="bold", expand=with_paper and on_terminal())
    table.add_column("name", no_wrap=True)
    table.add_column("year", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("imagenet")
    table.add_column("exported", overflow="fold")
    if with_paper:
        table.add_column("paper", no_wrap=True, ratio=1)
    for spec in CATALOG:
        paper = spec.paper
        cited = f"{paper.authors}: {paper.title}" if paper else "none: a notebook exercise"
        table.add_row(
            spec.name,
            str(paper.year) if paper else "-",
            f"{spec.parameters:,}",
            "yes" if spec.name in trained_elsewhere else "-",
            "\n".join(str(one) for one in exported.get(spec.name, [])) or "-",
            *([cited] if with_paper else []),
        )
    out.print(table)


def _exported(repository: Path) -> dict[str, list[_Exported]]:
    """List what a repository holds, by architecture.

    Raises:
        OSError: it cannot be read.
    """
    from artifact import layout, manifest
    from artifact.errors import ArtifactError

    found: dict[str, list[_Exported]] = {}
    for entry in layout.newest(repository):
        try:
            described = manifest.read(entry.folder)
        except ArtifactError as error:
            architecture = entry.name.partition("-")[0]
            one = _Exported(entry.name, entry.version, None, str(error))
        else:
            architecture = described.architecture
            ratio = manifest.accuracy_ratio(described.precisions[0])
            one = _Exported(entry.name, entry.version, ratio, None)
        found.setdefault(architecture, []).append(one)
    return found
