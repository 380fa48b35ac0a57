"""Waiting for what another thread does."""

import threading
from collections.abc import Callable


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; the test's own time limit ends it."""
    tick = threading.Event()
    while not condition():
        tick.wait(0.002)
