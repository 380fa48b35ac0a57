"""`modelzoo card`."""

from pathlib import Path

from rich.markdown import Markdown

from cli.terminal.console import RefusedError, on_terminal, out, refusing

_COLUMNS = 100  # of a page that is read on a wide terminal
_MAX_CHARACTERS = 1 << 20  # of a page; those that `export` writes have some thousand


def run(name: str, repository: Path) -> None:
    """Print the card of the newest version of a model, and where its pictures are.

    A terminal shows the page; a file or another program gets its Markdown, nothing wrapped or cut.
    """
    with refusing(OSError, UnicodeDecodeError):
        from artifact import layout

        entries = {entry.name: entry for entry in layout.newest(repository)}
        if name not in entries:
            held = ", ".join(entries) or "none"
            raise RefusedError(f"{repository} holds no model called {name!r}; there is: {held}")
        folder = entries[name].folder / layout.CARD
        page = _read(folder / "README.md")
        if on_terminal():
            # Links in full: a terminal would hide where they lead.
            out.print(Markdown(page, hyperlinks=False), width=min(out.width, _COLUMNS))
        else:
            out.print(page, soft_wrap=True)
        pictures = sorted(path for path in folder.glob("*.png") if path.name != layout.EXAMPLE)
        for path in pictures:
            out.print(str(path), soft_wrap=True)


def _read(path: Path) -> str:
    """Read a page.

    Raises:
        RefusedError: it is no regular file, or larger than any card.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for a writer
        raise RefusedError(f"{path}: not a regular file")
    with path.open(encoding="utf-8") as file:
        page = file.read(_MAX_CHARACTERS + 1)
    if len(page) > _MAX_CHARACTERS:
        raise RefusedError(f"{path}: more than the {_MAX_CHARACTERS:,} characters of a card")
    return page
