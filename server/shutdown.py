"""The end of a server: the signals that ask for it, and the time that accepted requests have then."""

import asyncio
import math
import signal
import time
from collections.abc import Callable, Coroutine

# There is nothing to reload: a hang-up, of a terminal or by habit, ends a server as the others do.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


def on_stop_signal(
    stop: Callable[[signal.Signals], None], loop: asyncio.AbstractEventLoop | None = None
) -> None:
    """Have the signals that end a server call a function.

    Args:
        loop: calls it; without one it is called wherever the main thread is.
    """
    ignore_signals(_IGNORED)
    for number in STOPPING:
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # `nohup` wants the server to outlive its terminal
        if loop is None:
            signal.signal(number, lambda number, _: stop(signal.Signals(number)))
        else:
            loop.add_signal_handler(number, stop, number)


def ignore_signals(numbers: tuple[signal.Signals, ...] = (*STOPPING, *_IGNORED)) -> None:
    """Have signals end nothing; a front end is ended by its engine, which has the same signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


class GracePeriod:
    """The time that accepted requests have; it has no end before the shutdown begins.

    Attributes:
        ends_s: on the clock of `time.monotonic`.
        forced: set when a second signal forces the stop.
    """

    def __init__(self) -> None:
        self.ends_s = math.inf
        self.forced = asyncio.Event()

    @property
    def left_s(self) -> float:
        """The time until the end."""
        return 0.0 if self.forced.is_set() else max(0.0, self.ends_s - time.monotonic())

    async def wait(self, coroutine: Coroutine[None, None, object]) -> None:
        """Wait until a coroutine has ended, the period is over, or the stop is forced."""
        tasks = [asyncio.ensure_future(coroutine), asyncio.ensure_future(self.forced.wait())]
        await asyncio.wait(tasks, timeout=self.left_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
