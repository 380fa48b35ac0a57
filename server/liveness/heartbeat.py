"""Signs of life between the engine and a front end: each end sends them, and looks for the other's."""

import asyncio
from collections.abc import Callable

BEATS = 10  # within the time that counts as silence: one a second where that is the default


class Heartbeat:
    """Sends a sign of life at regular intervals, and notices the other end's silence; on the event loop.

    Silence is counted in intervals of this process. One that was paused or blocked itself counts a single
    interval for all that time, and so gives the other end time anew.

    Args:
        send: sends a sign of life.
        timeout_s: of silence.
        on_silence: called once the other end has given no sign for so long, with the seconds.
        on_sound: called when it gives one again.
    """

    def __init__(
        self,
        send: Callable[[], None],
        timeout_s: float,
        on_silence: Callable[[float], None],
        on_sound: Callable[[], None] = lambda: None,
    ) -> None:
        self._send = send
        self._interval_s = timeout_s / BEATS
        self._on_silence = on_silence
        self._on_sound = on_sound
        self._loop = asyncio.get_running_loop()
        self._quiet = 0  # intervals
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to send, and to look."""
        self._timer = self._loop.call_later(self._interval_s, self.beat)

    def stop(self) -> None:
        """Send and look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def received(self) -> None:
        """Take note of a sign of the other end: any frame is one."""
        was_silent, self._quiet = self._quiet >= BEATS, 0
        if was_silent:
            self._on_sound()

    def beat(self) -> None:
        """Send a sign and count the interval that ends; the event loop calls it."""
        self.start()
        self._send()
        self._quiet += 1
        if self._quiet == BEATS:
            self._on_silence(self._quiet * self._interval_s)
