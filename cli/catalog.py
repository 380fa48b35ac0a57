"""`modelzoo list`."""

from pathlib import Path

from rich.table import Table

from cli.console import out, print_json, refusing


def show(repository: Path, *, as_json: bool) -> None:
    """Print the catalog with what is exported into a repository."""
    with refusing():
        from artifact import layout
        from export import recipes
        from zoo.catalog import CATALOG

    exported: dict[str, list[str]] = {}
    with refusing(OSError):
        for entry in layout.newest(repository):
            architecture = entry.name.partition("-")[0]
            exported.setdefault(architecture, []).append(f"{entry.name}/{entry.version}")
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
                    "weights": recipes.datasets_for(spec.name),
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
            " ".join(recipes.datasets_for(spec.name)) or "-",
            "\n".join(exported.get(spec.name, [])) or "-",
        )
    out.print(table)
