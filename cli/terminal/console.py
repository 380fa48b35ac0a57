"""What every command shares: how it prints, and how it rejects.

Labels, names and reasons come from artifacts and from servers, which may be hostile: what would move the
cursor, change a terminal's state or the order of its characters is shown as an escape instead.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

REFUSED = 1  # exit code; 2 is a wrong command line, and Typer's own
MAX_TEXT = 200  # characters of a name, a label or a reason that are shown
MAX_PATH = 4096  # characters of a path, as Linux has it
MAX_MESSAGE = 2000  # characters of an error; some list what there is

_PIPED_COLUMNS = 1000  # what goes to a file or to another program is cut and folded nowhere
# C0 but for tab and end of line, DEL and C1; bidirectional marks, embeddings, overrides and isolates; line
# and paragraph separators; halves of surrogate pairs, which stand for bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINE = re.compile(f"[\t\n]|{_UNSAFE.pattern}")
# Of the same width, for a terminal that has no such character; what is not here becomes an escape.
_SUBSTITUTES = str.maketrans({"█": "#", "▌": "|", "…": ".", "•": "*", "─": "-", "━": "-", "│": "|"})


class SafeConsole(Console):
    """A console that prints no control character of a text, and nothing that its encoding lacks."""

    @property
    def encoding(self) -> str:
        """Return the encoding of the stream; Rich knows only that of a file it was given."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a text, a table's cell for one, into what is laid out."""
        return super().render_str(self._shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay something out; texts that were never plain strings, a document's, are escaped here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=self._shown(segment.text))

    def _shown(self, text: str) -> str:
        text = _UNSAFE.sub(_escape, text)
        encoding = self.encoding
        if _has(encoding, text):
            return text
        substituted = (char if _has(encoding, char) else char.translate(_SUBSTITUTES) for char in text)
        return "".join(char if _has(encoding, char) else _escaped(char) for char in substituted)


def on_terminal() -> bool:
    """Return whether standard output is a terminal, whatever colours the environment asks for."""
    return sys.stdout is not None and sys.stdout.isatty()


def _environment() -> dict[str, str]:
    """Return what Rich reads; COLUMNS=0, which some editors set, would have it print nothing."""
    return {name: value for name, value in os.environ.items() if name != "COLUMNS" or value.strip("0")}


# No markup: what is printed holds names of files and messages of others, as in `digit[bold].png`.
out = SafeConsole(
    highlight=False,
    markup=False,
    emoji=False,
    width=None if on_terminal() else _PIPED_COLUMNS,
    _environ=_environment(),
)
err = SafeConsole(
    stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, _environ=_environment()
)


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
    """Print why on standard error, in one line, and end with exit code 1."""
    err.print(f"modelzoo: {one_line(message, MAX_MESSAGE)}")
    raise typer.Exit(REFUSED)


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Return a text of others as at most ``limit`` characters of one line, control characters escaped."""
    shown = _UNSAFE_IN_LINE.sub(_escape, text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII, for a program to read; what is no finite number becomes null."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")  # the one control character that `dumps` leaves
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _has(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _escape(match: re.Match[str]) -> str:
    return _escaped(match[0])


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")
