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


def run(flags: dict[str, Any], config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    with refusing():
        import uvloop

        from server import config as server_config
        from server import logs, process
        from server.errors import FrontendError, StartError

    def on_serving(server: "Server", ready: list[str]) -> None:
        if ready and settings.log_format == "text":
            in_background(hint, settings.repository, server.address, ready[0])

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


def in_background(courtesy: Callable[..., None], *arguments: object) -> threading.Thread:
    """Do what the service does not need; neither its failure nor its delay is the server's."""

    def quietly() -> None:
        with suppress(Exception, SystemExit):
            courtesy(*arguments)

    thread = threading.Thread(target=quietly, name=courtesy.__name__, daemon=True)
    thread.start()
    return thread


def hint(repository: Path, address: str, model: str) -> None:
    """Print how to ask a server for a model.

    Raises:
        OSError: the repository cannot be read.
        SystemExit: standard output cannot be written.
    """
    from artifact import layout
    from client.client import DEFAULT_ADDRESS

    picture = "PICTURE"
    entry = next((entry for entry in layout.newest(repository) if entry.name == model), None)
    if entry is not None:  # else it was removed since it was loaded
        example = entry.folder / layout.CARD / layout.EXAMPLE
        picture = str(example) if example.exists() else picture
    command = [sys.argv[0], "classify", picture, "--model", model]
    if address != DEFAULT_ADDRESS:
        command += ["--address", address]
    out.print(f"\nIn a second terminal:  {shlex.join(command)}\n", soft_wrap=True)
