"""A server as a process: it runs until a signal ends it, in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from server import opening
from server.app import Server
from server.config import Settings
from server.errors import FrontendError
from server.network import OpenNetwork

# There is nothing to reload: a hang-up, of a terminal or by habit, ends a server as the others do.
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)
_HOPELESS = 1  # exit code of a process that could not end in order


def heed_signals(stop: Callable[[signal.Signals], None]) -> None:
    """Have signals that end a server call a function, until the next call; others end nothing.

    Args:
        stop: called as a signal handler, or by the event loop that runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for number in _STOPPING:
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # `nohup` wants the server to outlive its terminal
        if loop is None:
            signal.signal(number, lambda number, _: stop(signal.Signals(number)))
        else:
            loop.add_signal_handler(number, stop, number)


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
        os._exit(_HOPELESS)

    server = Server(settings, log, open_network, on_failure=fail, on_hopeless=give_up)

    def stop_or_hurry(number: signal.Signals) -> None:
        if told_to_stop.is_set():
            server.hurry()
        causes.append(number.name)
        told_to_stop.set()

    heed_signals(stop_or_hurry)
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
    await server.stop(causes[0])
    if failures:
        raise FrontendError(failures[0])
