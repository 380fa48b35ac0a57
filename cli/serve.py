"""`modelzoo serve`."""

import os
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.terminal.console import MAX_MESSAGE, REFUSED, err, one_line, out, refusing

if TYPE_CHECKING:
    from server.app import Server


def run(flags: dict[str, Any], config: Path | None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP."""
    with refusing():
        from server import machine, shutdown

        shutdown.on_stop_signal(lambda _: os._exit(0))  # there is nothing yet that an end could hurt
    with machine.lasting(), refusing():
        import uvloop

        from server import config as server_config
        from server import process
        from server.errors import FrontendError, StartError
        from server.observability import capture, logs

    def on_serving(server: "Server", ready: list[str]) -> None:
        if ready and settings.log_format == "text":
            in_background(hint, settings.repository, server.address, ready[0])

    async def serve_and_exit() -> None:
        code = REFUSED
        try:
            await process.serve(settings, log, on_serving)
            code = 0
        except (FrontendError, StartError) as error:
            if settings.log_format == "json":
                log.critical("ended", reason=str(error))
            else:
                logs.flush(log)
                with suppress(Exception):
                    err.print(f"modelzoo: {one_line(str(error), MAX_MESSAGE)}")
        except Exception:
            log.critical("uncaught_exception", exc_info=True)
        # All is answered and said. A thread that is still inside a library, of a network or of a decoder
        # that the grace period did not wait for, would hold up the interpreter's own way out.
        stderr.restore()
        logs.flush(log)
        os._exit(code)

    with refusing(StartError):
        settings = server_config.load(flags, config)
    stderr = capture.StandardError()
    log = logs.make(settings.log_format, stderr.stream)
    capture.divert_python(log)
    if settings.diverts_stderr:
        stderr.divert(log, python=settings.log_format == "json")
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
