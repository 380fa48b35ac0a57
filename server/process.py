"""A server as a process: it runs until it is told to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from server.app import Server
from server.config import Settings
from server.errors import FrontendError


async def serve(
    settings: Settings, log: FilteringBoundLogger, on_serving: Callable[[Server, list[str]], None]
) -> None:
    """Run a server until SIGTERM or SIGINT, then stop it in order; a second signal ends the grace period.

    Args:
        on_serving: told once when every model was tried: the server, and the READY models' names.

    Raises:
        StartError: a setting, a port or the device is not usable.
        FrontendError: a front end ended, and the server with it, in order.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    failures: list[str] = []

    def fail(reason: str) -> None:
        failures.append(reason)
        told_to_stop.set()

    server = Server(settings, log, on_failure=fail)

    def stop_or_hurry() -> None:
        if told_to_stop.is_set():
            server.hurry()
        told_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_or_hurry)
    await server.open()
    loading = loop.create_task(server.load())
    stopping = loop.create_task(told_to_stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        on_serving(server, loading.result())
        await stopping
    else:
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
    await server.stop()
    if failures:
        raise FrontendError(failures[0])
