"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Repository = Annotated[
    Path, typer.Option(help="Folder of the exported models.", envvar="MODELZOO_REPOSITORY")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

MODELS = Path("models")
