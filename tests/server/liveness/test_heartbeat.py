"""Signs of life: what is silent is noticed once, and whatever stood still itself gives time anew."""

import asyncio

from server.liveness.heartbeat import BEATS, Heartbeat


class Ends:
    """A heartbeat of a test, whose time does not pass by itself."""

    def __init__(self) -> None:
        self.sent = 0
        self.told: list[str] = []
        self.heartbeat = Heartbeat(
            self._send, 3600.0, lambda s: self.told.append(f"silent {s}"), lambda: self.told.append("sounds")
        )

    def beat(self, times: int) -> None:
        for _ in range(times):
            self.heartbeat.beat()
            self.heartbeat.stop()

    def _send(self) -> None:
        self.sent += 1


def test_silence_is_told_once_and_its_end_too() -> None:
    async def scenario() -> None:
        ends = Ends()
        ends.beat(BEATS - 1)
        ends.heartbeat.received()
        ends.beat(BEATS - 1)
        assert ends.told == []
        ends.beat(BEATS)
        assert ends.told == ["silent 3600.0"]
        ends.heartbeat.received()
        ends.heartbeat.received()
        assert ends.told == ["silent 3600.0", "sounds"]
        ends.beat(BEATS)
        assert ends.told == ["silent 3600.0", "sounds", "silent 3600.0"]
        assert ends.sent == 4 * BEATS - 2

    asyncio.run(scenario())


def test_time_in_which_this_process_stood_still_is_one_interval() -> None:
    """However late the timer comes, it counts once: so a paused container raises no alarm when it goes on."""

    async def scenario() -> None:
        sent = asyncio.Event()
        heartbeat = Heartbeat(sent.set, 0.1 * BEATS, lambda _: sent.set())
        heartbeat.start()
        await sent.wait()
        assert heartbeat._quiet == 1
        heartbeat.stop()

    asyncio.run(scenario())
