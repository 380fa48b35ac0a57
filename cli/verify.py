"""`modelzoo verify`."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cli.terminal.console import RefusedError, err, one_line, out, refusing

if TYPE_CHECKING:
    from artifact import layout
    from server.runtime.device import Device

_TIMEOUT_S = 300.0  # of one precision's trial, where its graph needs one


def run(names: list[str], repository: Path, device: str) -> None:
    """Check the newest version of every named model, or of all; refuse if one fails."""
    with refusing():
        from artifact import layout
        from artifact.execution import core_count
        from server.errors import StartError
        from server.runtime.device import choose

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
        for column in ("model", "version", "precision", "device", "difference", "allowed"):
            table.add_column(column, no_wrap=True)
        table.add_column("verdict")
        reasons = {name: _verify(entries[name], choice.device, table) for name in names or entries}
        out.print(table)
        failed = {name: reason for name, reason in reasons.items() if reason}
        for name, reason in failed.items():
            out.print(f"{one_line(name)}: {one_line(reason)}", soft_wrap=True)
        if failed:
            raise RefusedError(f"{len(failed)} of {len(reasons)} models failed")


def _verify(entry: "layout.Entry", device: "Device", table: Table) -> str:
    """Check one model in every precision that is meant for the device; add a row for each.

    Returns:
        What is wrong; empty where all is well.
    """
    from artifact import golden
    from artifact.errors import first_line
    from server.config import Settings
    from server.repository import loading

    max_bytes: int = Settings.model_fields["max_model_bytes"].default
    name = one_line(entry.name)
    begun: tuple[str, ...] = (name, str(entry.version))
    try:
        artifact = loading.read(entry.folder)
        for precision in artifact.manifest.precisions:
            begun = (name, str(entry.version), one_line(precision.name), device.name)
            if not any(tolerance.provider == device.provider for tolerance in precision.tolerances):
                table.add_row(*begun, "-", "-", Text("not meant for this device"))
                continue
            loading.require_bounded(artifact, precision, device, golden.BATCH_SIZES, max_bytes, _TIMEOUT_S)
            _, proof = loading.open_and_prove(artifact, precision, device, golden.BATCH_SIZES)
            found = proof.comparison
            figures = (f"{found.max_abs_difference:.1e}", f"{found.tolerance:.0e}")
            table.add_row(*begun, *figures, Text("ok", style="green"))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are checked
        dashes = ["-"] * (6 - len(begun))
        table.add_row(*begun, *dashes, Text("FAILED", style="red"))
        return first_line(error)
    return ""
