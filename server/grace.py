"""The time that accepted requests have to end once a server is told to stop."""

import asyncio
import math
import time
from collections.abc import Coroutine


class Grace:
    """A grace period; it has no end before it begins.

    Attributes:
        ends_s: on the clock of `time.monotonic`.
        hurried: set when somebody does not want to wait for the end.
    """

    def __init__(self) -> None:
        self.ends_s = math.inf
        self.hurried = asyncio.Event()

    @property
    def left_s(self) -> float:
        """Give the time until the end."""
        return 0.0 if self.hurried.is_set() else max(0.0, self.ends_s - time.monotonic())

    async def wait(self, what: Coroutine[None, None, object]) -> None:
        """Wait for something until it is there, the grace period has ended or somebody is in a hurry."""
        tasks = [asyncio.ensure_future(what), asyncio.ensure_future(self.hurried.wait())]
        await asyncio.wait(tasks, timeout=self.left_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
