"""The bytes and requests in flight: what clients make this process hold."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import OverloadedError

RETRY_DELAY_S = 0.5  # some large requests' time


class InFlight:
    """Counts requests from their last byte until their answer is sent, and the bytes of both.

    Args:
        max_bytes: size of all of them together.

    Attributes:
        idle: set while there is no request.
        unfinished_bytes: what has come of messages that are not whole yet, and what the transport holds of
            answers that are not read, as last measured.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.unfinished_bytes = 0
        self._bytes = 0
        self._requests = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def excess_bytes(self) -> int:
        """Return by how much the limit is exceeded; negative where it is not."""
        return self._bytes + self.unfinished_bytes - self.max_bytes

    def enter(self, size_bytes: int, requests: int = 1) -> None:
        """Count a request, which must `leave` whatever becomes of it."""
        self._bytes += size_bytes
        self._requests += requests
        if self._requests:
            self.idle.clear()

    def require_room(self, reserve_bytes: float = 0) -> None:
        """Reject the request that came last, if it is too much.

        Args:
            reserve_bytes: beyond the limit, that it may have.

        Raises:
            OverloadedError: the requests in flight are too large together.
        """
        if self.excess_bytes > reserve_bytes:
            used = self._bytes + self.unfinished_bytes
            raise OverloadedError(f"bytes in flight: {used:,} of {self.max_bytes:,}", RETRY_DELAY_S)

    def leave(self, size_bytes: int, requests: int = 1) -> None:
        """Count requests out: their answers are sent, or not wanted any more."""
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
