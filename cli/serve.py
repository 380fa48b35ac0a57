"""`modelzoo serve`."""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.console import REFUSED, err, out, refusing

if TYPE_CHECKING:
    from server.app import Server


def run(flags: dict[str, Any], config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    with refusing():
        import uvloop

        from artifact import layout
        from client.client import DEFAULT_ADDRESS
        from server import config as server_config
        from server import process
        from server.errors import FrontendError, StartError
        from server.observability import logs

    def hint(server: "Server", ready: list[str]) -> None:
        if not ready or settings.log_format != "text":
            return
        entry = next(entry for entry in layout.newest(settings.repository) if entry.name == ready[0])
        example = entry.folder / layout.CARD / layout.EXAMPLE
        picture = str(example) if example.exists() else "PICTURE"
        command = [sys.argv[0], "classify", picture, "--model", ready[0]]
        if server.address != DEFAULT_ADDRESS:
            command += ["--address", server.address.replace("0.0.0.0:", "127.0.0.1:")]
        with suppress(OSError):  # nobody reads it; the server serves all the same
            out.print(f"\nIn a second terminal:  {shlex.join(command)}\n", soft_wrap=True)

    async def serve_and_exit() -> None:
        code = 0
        try:
            await process.serve(settings, logs.make(settings.log_format, sys.stderr), hint)
        except FrontendError as error:
            err.print(f"modelzoo: {error}")
            code = REFUSED
        # All is answered and said. A thread that is still inside a library, of a network or of a decoder
        # that the grace period did not wait for, would hold up the interpreter's own way out.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    with refusing(StartError):
        settings = server_config.load(flags, config)
        uvloop.run(serve_and_exit())
