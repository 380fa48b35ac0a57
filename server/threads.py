"""From a thread back to the event loop."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


def hand_over(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[Arguments, None],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> None:
    """Have the event loop call a function; do nothing where the loop is closed.

    It is closed only when the grace period of a stop has ended while this thread was busy; then nothing
    waits for it any more.
    """
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(lambda: callback(*args, **kwargs))
