"""What is being answered: how many requests, and how large they are together."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import OverloadedError

_RETRY_DELAY_S = 0.5  # some large requests' time


class InFlight:
    """Counts the requests that have come and whose answer has not gone.

    Args:
        max_bytes: size of all of them together.

    Attributes:
        idle: set while there is none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._requests = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def enter(self, size_bytes: int) -> None:
        """Count a request, which must `leave` whatever becomes of it."""
        self._bytes += size_bytes
        self._requests += 1
        self.idle.clear()

    def require_room(self) -> None:
        """Refuse the request that came last, if it is too much.

        Raises:
            OverloadedError: the requests in flight are too large together.
        """
        if self._bytes > self._max_bytes:
            raise OverloadedError("the requests in flight are too large together", _RETRY_DELAY_S)

    def leave(self, size_bytes: int, requests: int = 1) -> None:
        """Count requests out: their answers have gone, or nobody wants them any more."""
        self._bytes -= size_bytes
        self._requests -= requests
        if not self._requests:
            self.idle.set()

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Count what a request brings in beside its message, as a request of its own.

        Raises:
            OverloadedError: the requests in flight are too large together.
        """
        self.enter(size_bytes)
        try:
            self.require_room()
            yield
        finally:
            self.leave(size_bytes)
