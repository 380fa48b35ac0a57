"""A server as a process: it runs until a signal ends it, in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from server import machine, shutdown
from server.app import Server
from server.config import Settings
from server.errors import FrontendError
from server.observability import capture, logs
from server.runtime import opening
from server.runtime.network import OpenNetwork

_HOPELESS = 1  # exit code of a process that could not end in order


async def serve(
    settings: Settings,
    log: FilteringBoundLogger,
    on_serving: Callable[[Server, list[str]], None],
    open_network: OpenNetwork = opening.open_network,
) -> None:
    """Run a server until SIGTERM, SIGINT or SIGHUP, then stop it in order.

    A second signal ends the grace period.

    Args:
        on_serving: called once when every model was tried: the server, and the READY models' names. What it
            raises is logged, and ends nothing.
        open_network: opens a model's network; tests may give another.

    Raises:
        StartError: a setting, a port or the device is not usable.
        FrontendError: a front end or another vital part ended, and the server with it, in order.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    causes: list[str] = []
    failures: list[str] = []

    def fail(reason: str) -> None:
        causes.append(reason)
        failures.append(reason)
        told_to_stop.set()

    def give_up(reason: str) -> None:
        log.critical("ending_now", reason=reason)
        logs.flush(log)
        os._exit(_HOPELESS)

    def stop_or_force(number: signal.Signals) -> None:
        if told_to_stop.is_set():
            server.force_stop()
        causes.append(number.name)
        told_to_stop.set()

    if settings.transport == "h2corn":
        machine.keep_freed_memory()
    shutdown.on_stop_signal(stop_or_force, loop)
    loop.set_exception_handler(capture.loop_errors(log))
    try:
        server = Server(settings, log, open_network, on_failure=fail, on_hopeless=give_up)
        await _run(server, told_to_stop, log, on_serving)
        await server.stop(causes[0])
    finally:
        logs.flush(log)
    if failures:
        raise FrontendError(failures[0])


async def _run(
    server: Server,
    told_to_stop: asyncio.Event,
    log: FilteringBoundLogger,
    on_serving: Callable[[Server, list[str]], None],
) -> None:
    """Open a server and load its models, until it is time to stop."""
    loop = asyncio.get_running_loop()
    await server.open()
    loading = loop.create_task(server.load())
    stopping = loop.create_task(told_to_stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
    else:
        try:
            on_serving(server, loading.result())
        except Exception:
            log.warning("hint_failed", exc_info=True)
    await stopping
