"""`modelzoo verify`."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from cli.console import RefusedError, err, out, refusing


def run(names: list[str], repository: Path, device: str) -> None:
    """Check the newest version of every named model, or of all; refuse if one fails."""
    with refusing():
        from artifact import golden, layout
        from server import loading
        from server.device import choose
        from server.errors import StartError
        from server.machine import core_count

    with refusing(StartError, OSError):
        choice = choose(device, core_count())
        if choice.fallback_reason:
            err.print(f"on the CPU, because {choice.fallback_reason}", style="yellow")
        entries = {entry.name: entry for entry in layout.newest(repository)}
        for name in names:
            if name not in entries:
                raise RefusedError(f"{repository} holds no model called {name!r}")
        if not entries:
            raise RefusedError(f"{repository} holds no model")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("model", "version", "provider", "largest difference", "allowed", "verdict"):
            table.add_column(column)
        failed = 0
        for name in names or entries:
            entry = entries[name]
            try:
                artifact = loading.read(entry.folder)
                _, comparison = loading.open_and_prove(
                    artifact, loading.PRECISION, choice.device, golden.BATCH_SIZES
                )
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are checked
                failed += 1
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                figures, verdict = ("-", "-"), Text(f"FAILED: {reason}", style="red")
            else:
                figures = (f"{comparison.max_abs_difference:.1e}", f"{comparison.tolerance:.0e}")
                verdict = Text("ok", style="green")
            table.add_row(name, str(entry.version), choice.device.provider, *figures, verdict)
        out.print(table)
        if failed:
            raise RefusedError(f"{failed} of {len(names or entries)} models failed")
