"""`modelzoo serve`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.console import out, refusing

if TYPE_CHECKING:
    from server.app import Server


def run(flags: dict[str, Any], config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    with refusing():
        import uvloop

        from artifact import layout
        from server import app, logs
        from server import config as server_config
        from server.errors import StartError

    def hint(server: "Server", ready: list[str]) -> None:
        if not ready or settings.log_format != "text":
            return
        entry = next(entry for entry in layout.newest(settings.repository) if entry.name == ready[0])
        example = entry.folder / layout.CARD / layout.EXAMPLE
        picture = str(example) if example.exists() else "PICTURE"
        command = [sys.argv[0], "classify", picture, "--model", ready[0]]
        if server.grpc_port != server_config.Settings.model_fields["grpc_port"].default:
            command += ["--address", f"{settings.host}:{server.grpc_port}"]
        out.print(f"\nIn a second terminal:  {shlex.join(command)}\n", soft_wrap=True)

    with refusing(StartError):
        settings = server_config.load(flags, config)
        uvloop.run(app.serve(settings, logs.make(settings.log_format, sys.stderr), hint))
