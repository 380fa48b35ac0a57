"""Pacing of the event loop: few new calls a turn, and heavy requests half of the time at most."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

LIGHT_BYTES = 64 << 10  # of a request: parsed and looked through in a fraction of a millisecond
_SHORT_S = 0.001  # what takes no longer needs no pause; event loops measure time in milliseconds


class CallStarts:
    """Bounds how many calls begin in each turn of the event loop; those that are too many begin in the next.

    Args:
        calls: that may begin in one.
    """

    def __init__(self, calls: int) -> None:
        self._calls = self._left = calls
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until a call may begin."""
        loop = asyncio.get_running_loop()
        if self._left == self._calls:
            loop.call_soon(self._next)
        if self._left:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """Begin a turn; the event loop calls it while any call comes."""
        self._left = self._calls
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._left -= 1
                turn.set_result(None)
        if self._left < self._calls:
            asyncio.get_running_loop().call_soon(self._next)


class Pacer:
    """Admits heavy requests in the order in which they came.

    After each, as much time passes before the next as the turn of the event loop took in which it went on.

    Args:
        clock: of these turns.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy = asyncio.Lock()  # while one has gone on, and its time is not over
        self._hurries = False

    async def wait(self, size_bytes: int) -> None:
        """Wait until a request of so many bytes may go on; a light one need not."""
        if size_bytes <= LIGHT_BYTES:
            return
        await self._busy.acquire()
        asyncio.get_running_loop().call_soon(self._pause, self._clock())

    async def flush(self) -> None:
        """Return when all that wait now have gone on, without pauses: the server is about to stop."""
        self._hurries = True
        async with self._busy:
            pass

    def _pause(self, began_s: float) -> None:
        """Leave the event loop to others for as long as it was taken."""
        taken_s = self._clock() - began_s
        if self._hurries or taken_s < _SHORT_S:
            self._busy.release()
        else:
            asyncio.get_running_loop().call_later(taken_s, self._busy.release)
