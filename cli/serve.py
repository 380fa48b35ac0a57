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
    """Serve until SIGTERM, SIGINT or SIGHUP."""
    with refusing():
        from server import signals

        signals.heed(lambda _: os._exit(0))  # there is nothing yet that an end could hurt
        import uvloop

        from artifact import layout
        from client.client import DEFAULT_ADDRESS
        from server import config as server_config
        from server import process
        from server.errors import FrontendError, StartError
        from server.observability import capture, logs

    def hint(server: "Server", ready: list[str]) -> None:
        if not ready or settings.log_format != "text":
            return
        entry = next(entry for entry in layout.newest(settings.repository) if entry.name == ready[0])
        example = entry.folder / layout.CARD / layout.EXAMPLE
        picture = str(example) if example.exists() else "PICTURE"
        command = [sys.argv[0], "classify", picture, "--model", ready[0]]
        if server.address != DEFAULT_ADDRESS:
            command += ["--address", server.address.replace("0.0.0.0:", "127.0.0.1:")]
        with suppress(OSError):  # without a reader; the server serves all the same
            out.print(f"\nIn a second terminal:  {shlex.join(command)}\n", soft_wrap=True)

    async def serve_and_exit() -> None:
        code = REFUSED
        try:
            await process.serve(settings, log, hint)
            code = 0
        except (FrontendError, StartError) as error:
            if settings.log_format == "json":
                log.critical("ended", reason=str(error))
            else:
                logs.flush(log)
                with suppress(OSError):
                    err.print(f"modelzoo: {error}")
        except Exception:
            log.critical("uncaught_exception", exc_info=True)
        # All is answered and said. A thread that is still inside a library, of a network or of a decoder
        # that the grace period did not wait for, would hold up the interpreter's own way out.
        stderr.restore()
        logs.flush(log)
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)

    with refusing(StartError):
        settings = server_config.load(flags, config)
    stderr = capture.StandardError()
    log = logs.make(settings.log_format, stderr.stream)
    capture.divert_python(log)
    if settings.log_format == "json":
        stderr.divert(log)
    uvloop.run(serve_and_exit())
