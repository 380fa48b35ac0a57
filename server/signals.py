"""The signals that end a server, in order, and those that end nothing."""

import asyncio
import signal
from collections.abc import Callable

# There is nothing to reload: a hang-up, of a terminal or by habit, ends a server as the others do.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


def heed(stop: Callable[[signal.Signals], None], loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Have the signals that end a server call a function.

    Args:
        loop: calls it; without one it is called wherever the main thread is.
    """
    ignore(_IGNORED)
    for number in STOPPING:
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # `nohup` wants the server to outlive its terminal
        if loop is None:
            signal.signal(number, lambda number, _: stop(signal.Signals(number)))
        else:
            loop.add_signal_handler(number, stop, number)


def ignore(numbers: tuple[signal.Signals, ...] = (*STOPPING, *_IGNORED)) -> None:
    """Have signals end nothing; a front end is ended by its engine, which has the same signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
