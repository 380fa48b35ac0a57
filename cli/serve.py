"""`modelzoo serve`."""

import os
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.console import MAX_MESSAGE, REFUSED, err, one_line, out, refusing

if TYPE_CHECKING:
    from server.app import Server


def _quietly(function: Callable[..., None], *arguments: object) -> None:
    """Call a function whose failure, an end of the process included, concerns nothing else."""
    with suppress(Exception, SystemExit):
        function(*arguments)


def run(flags: dict[str, Any], config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    with refusing():
        import uvloop

        from artifact import layout
        from client.client import DEFAULT_ADDRESS
        from server import config as server_config
        from server import logs, process
        from server.errors import FrontendError, StartError

    def hint(server: "Server", ready: list[str]) -> None:
        if not ready or settings.log_format != "text":
            return
        entries = {entry.name: entry for entry in layout.newest(settings.repository)}
        picture = "PICTURE"
        if (entry := entries.get(ready[0])) is not None:  # removed since, or being replaced
            example = entry.folder / layout.CARD / layout.EXAMPLE
            picture = str(example) if example.exists() else picture
        command = [sys.argv[0], "classify", picture, "--model", ready[0]]
        if server.address != DEFAULT_ADDRESS:
            command += ["--address", server.address]
        out.print(f"\nIn a second terminal:  {shlex.join(command)}\n", soft_wrap=True)

    def on_serving(server: "Server", ready: list[str]) -> None:
        # A courtesy: it looks into a repository that may be gone or slow, and prints where a reader may have
        # left or may read nothing. Its thread can end the server in no way, nor hold it up.
        threading.Thread(target=_quietly, args=(hint, server, ready), name="hint", daemon=True).start()

    async def serve_and_exit() -> None:
        code = 0
        try:
            await process.serve(settings, logs.make(settings.log_format, sys.stderr), on_serving)
        except FrontendError as error:
            code = REFUSED
            with suppress(Exception):
                err.print(f"modelzoo: {one_line(str(error), MAX_MESSAGE)}")
        # All is answered and said. A thread that is still inside a library, of a network or of a decoder
        # that the grace period did not wait for, would hold up the interpreter's own way out.
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)

    with refusing(StartError):
        settings = server_config.load(flags, config)
        uvloop.run(serve_and_exit())
