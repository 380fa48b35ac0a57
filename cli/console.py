"""What every command shares: how it prints, and how it refuses."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

_PIPED_COLUMNS = 1000  # what goes to a file or to another program is cut and folded nowhere

# No markup: what is printed holds names of files and messages of others, `digit[bold].png` say.
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

REFUSED = 1  # exit code; 2 is a wrong command line, and Typer's own


class RefusedError(Exception):
    """The command cannot do what it was asked; the message is all that the user sees."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these exceptions, and a missing extra, into one line on standard error and exit code 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        refuse(f"this command needs a package that is not installed: {error.name}; see README.md, Install")
    except Exception as error:
        if not isinstance(error, (RefusedError, *kinds)):
            raise
        refuse(str(error))


def refuse(message: str) -> None:
    """Print why on standard error and end with exit code 1."""
    err.print(f"modelzoo: {message}")
    raise typer.Exit(REFUSED)


def print_json(value: Any) -> None:
    """Print a value as JSON for a program to read."""
    typer.echo(json.dumps(value, indent=2))
