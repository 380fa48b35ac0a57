"""`modelzoo card`."""

from pathlib import Path

from rich.markdown import Markdown

from cli.console import RefusedError, out, refusing


def run(name: str, repository: Path) -> None:
    """Print the card of the newest version of a model, and say where its pictures are."""
    with refusing(OSError, UnicodeDecodeError):
        from artifact import layout

        entries = {entry.name: entry for entry in layout.newest(repository)}
        if name not in entries:
            held = ", ".join(entries) or "none"
            raise RefusedError(f"{repository} holds no model called {name!r}; there is: {held}")
        folder = entries[name].folder / layout.CARD
        out.print(Markdown((folder / "README.md").read_text("utf-8")))
        pictures = sorted(path for path in folder.glob("*.png") if path.name != layout.EXAMPLE)
        out.print("\n".join(str(path) for path in pictures), soft_wrap=True)
