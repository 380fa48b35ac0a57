"""Waiting for what another thread does."""

import threading
from collections.abc import Callable


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; the test's own time limit ends it."""
    tick = threading.Event()
    while not condition():
        tick.wait(0.002)


class CountingCondition(threading.Condition):
    """A condition that counts waits and those it has woken; a wait has begun when the lock is free again."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)
        self.woken = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        return super().wait(timeout)

    def notify(self, n: int = 1) -> None:
        self.woken += n
        super().notify(n)
