"""What is worked on at the same time, by its size: first come, first served, so large work is not starved."""

import asyncio
from collections import deque


class WorkingSet:
    """Lets work begin while all that is under way stays within a limit; the event loop alone touches it.

    Args:
        limit_px: of all together. Larger work counts as this, and has it for itself.
    """

    def __init__(self, limit_px: int) -> None:
        self._limit_px = limit_px
        self._taken_px = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def taken_px(self) -> int:
        """Return the size of what is under way."""
        return self._taken_px

    async def enter(self, size_px: int) -> int:
        """Wait until there is room behind all that came before.

        Returns:
            What to `leave` with once the work has ended, whatever became of it.
        """
        size_px = min(size_px, self._limit_px)
        if not self._waiting and self._taken_px + size_px <= self._limit_px:
            self._taken_px += size_px
            return size_px
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size_px))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came together with the cancellation
                self.leave(size_px)
            else:
                self._begin()  # those behind may fit
            raise
        return size_px

    def leave(self, size_px: int) -> None:
        """Return room back."""
        self._taken_px -= size_px
        self._begin()

    def _begin(self) -> None:
        while self._waiting:
            turn, size_px = self._waiting[0]
            if not turn.cancelled():
                if self._taken_px + size_px > self._limit_px:
                    return
                self._taken_px += size_px
                turn.set_result(None)
            self._waiting.popleft()
