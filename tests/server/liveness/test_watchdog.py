"""What hangs is found, told once and ended; what was paused, or takes long and is known to, is not."""

import asyncio
import json
from collections.abc import Callable

import numpy as np

from server.liveness.watchdog import Watchdog
from tests.server.by_hand import Clock
from tests.server.liveness.test_supervision import Supervised

IMAGE = np.zeros((1, 1, 1), np.uint8)


class Watched:
    """A watchdog whose clock a test moves, over a lane that holds a batch."""

    def __init__(self, wired, **options: float) -> None:
        self.wired = wired
        self.clock = Clock()
        self.supervised = Supervised()
        self.given_up: list[str] = []
        limits = {"batch_timeout_s": 30.0, "loop_timeout_s": 10.0, "grace_s": 20.0} | options
        self.watchdog = Watchdog(
            wired.lane.running,
            self.supervised.supervisor,
            self.supervised.supervisor._log,
            self.given_up.append,
            clock=self.clock,
            **limits,
        )

    @property
    def events(self) -> list[str]:
        return [event["event"] for event in self.supervised.events]

    async def pass_by(self, seconds: int, *, loop_lives: bool = True) -> None:
        """Let so many seconds pass, and look after each."""
        for _ in range(seconds):
            self.clock.now_s += 1
            self.watchdog.check()
            if loop_lives:
                await asyncio.sleep(0)


async def held(wired) -> asyncio.Future:
    """Have the lane run a batch that does not end until the gate opens."""
    wired.network.shut()
    answer = wired.batcher.submit(wired.queue, [IMAGE] * 3)
    await asyncio.sleep(0)  # wakes the lane
    assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
    return answer


def test_a_batch_that_does_not_end_is_told_once_and_ends_the_process_in_order(wire) -> None:
    async def scenario() -> None:
        watched = Watched(wire())
        answer = await held(watched.wired)
        await watched.pass_by(30)
        assert watched.supervised.faults.healthy() == ""
        await watched.pass_by(1)
        [event] = watched.supervised.events
        assert (event["event"], event["model"], event["images"]) == ("lane_hangs", "lenet5-digits", 3)
        assert any("infer" in line for line in event["stack"])
        assert "IMAGE" not in json.dumps(event)
        reason = "a batch of 3 images for lenet5-digits has been running for 30 s"
        assert watched.supervised.faults.healthy() == reason
        assert watched.supervised.counted("lane") == 1
        await watched.pass_by(29)
        assert watched.events == ["lane_hangs"]
        assert watched.supervised.failures == []
        await watched.pass_by(1)
        reason = "a batch of 3 images for lenet5-digits has been running for 60 s, of at most 30"
        assert watched.supervised.failures == [reason]
        await watched.pass_by(29)  # the stop's grace period, and what it may take beyond that
        assert watched.given_up == []
        await watched.pass_by(1)
        assert watched.given_up == ["the server did not stop in order within its grace period"]
        assert watched.supervised.failures == [reason]
        watched.wired.network.open_all()
        await asyncio.wait_for(answer, 60)

    asyncio.run(scenario())


def test_a_batch_that_ends_after_all_leaves_the_server_healthy(wire) -> None:
    async def scenario() -> None:
        watched = Watched(wire())
        answer = await held(watched.wired)
        await watched.pass_by(40)
        assert watched.supervised.faults.healthy()
        watched.wired.network.open_all()
        await asyncio.wait_for(answer, 60)
        assert await asyncio.to_thread(watched.wired.lane.call(lambda: True).result, 60)
        await watched.pass_by(60)
        assert watched.supervised.faults.healthy() == ""
        assert watched.events == ["lane_hangs", "lane_resumed"]
        assert watched.supervised.failures == []

    asyncio.run(scenario())


def test_a_batch_may_take_twenty_times_what_is_predicted(wire) -> None:
    async def scenario() -> None:
        watched = Watched(wire())
        answer = await held(watched.wired)
        [(_, batch)] = watched.wired.lane.running()
        batch.ends_s = batch.started_s + 5
        await watched.pass_by(100)
        assert watched.events == []
        await watched.pass_by(1)
        assert watched.events == ["lane_hangs"]
        watched.wired.network.open_all()
        await asyncio.wait_for(answer, 60)

    asyncio.run(scenario())


def test_a_load_may_hold_a_lane_for_as_long_as_it_takes(wire) -> None:
    async def scenario() -> None:
        watched = Watched(wire())
        gate = watched.wired.network.shut()
        load = watched.wired.lane.call(gate.wait)
        waiting = watched.wired.batcher.submit(watched.wired.queue, [IMAGE])
        await watched.pass_by(1000)
        assert watched.events == []
        gate.set()
        await asyncio.to_thread(load.result, 60)
        await asyncio.wait_for(waiting, 60)

    asyncio.run(scenario())


def test_time_in_which_all_stood_still_is_not_counted(wire) -> None:
    async def scenario() -> None:
        watched = Watched(wire())
        answer = await held(watched.wired)
        await watched.pass_by(20)
        watched.clock.now_s += 3600  # a container that was paused, a laptop that slept
        await watched.pass_by(9)  # the first of these counts two
        assert watched.events == []
        assert watched.supervised.faults.healthy() == ""
        watched.wired.network.open_all()
        await asyncio.wait_for(answer, 60)

    asyncio.run(scenario())


def blocked_here(pass_by: Callable[[], None]) -> None:
    pass_by()


def test_an_event_loop_that_gives_no_sign_is_told_with_its_stack_and_ends_the_process_at_last(wire) -> None:
    async def scenario() -> None:
        watched = Watched(wire())
        await watched.pass_by(5)

        def block() -> None:
            for _ in range(11):
                watched.clock.now_s += 1
                watched.watchdog.check()

        blocked_here(block)
        [event] = watched.supervised.events
        assert event["event"] == "event_loop_blocked"
        assert any(line.endswith("blocked_here") for line in event["stack"])
        assert watched.supervised.faults.healthy() == "the event loop has given no sign of life for 10 s"
        assert watched.supervised.counted("event_loop") == 1
        await watched.pass_by(2)
        assert watched.events == ["event_loop_blocked", "event_loop_resumed"]
        assert watched.supervised.faults.healthy() == ""
        assert watched.given_up == []
        await watched.pass_by(61, loop_lives=False)
        assert watched.given_up[0] == "the event loop has given no sign of life for 60 s"

    asyncio.run(scenario())


def test_a_watchdog_that_fails_goes_on_and_ends_the_process_where_it_fails_for_good(wire) -> None:
    async def scenario() -> None:
        supervised = Supervised()

        def fail() -> list:
            raise ValueError("no lanes")

        watchdog = Watchdog(
            fail,
            supervised.supervisor,
            supervised.supervisor._log,
            supervised.failures.append,
            batch_timeout_s=30,
            loop_timeout_s=10,
            grace_s=20,
            interval_s=0.001,
        )
        watchdog.start()
        await asyncio.to_thread(watchdog._thread.join, 60)
        watchdog.stop()
        assert supervised.counted("watchdog") == 6
        assert supervised.failures == ["the watchdog fails again and again; the log has the cause"]

    asyncio.run(scenario())


def test_a_vital_thread_that_ends_ends_the_process_unless_that_is_expected(wire) -> None:
    async def scenario(expected: bool) -> Watched:
        watched, alive = Watched(wire()), [True]
        watched.watchdog.require("metrics_port", lambda: alive[0])
        await watched.pass_by(3)
        assert watched.events == []
        if expected:
            watched.watchdog.expect_end()
        alive.clear()
        alive.append(False)
        await watched.pass_by(3)
        return watched

    watched = asyncio.run(scenario(expected=False))
    assert watched.events == ["vital_task_ended"]
    assert watched.supervised.failures == ["vital thread metrics_port ended unexpectedly"]
    assert watched.supervised.counted("metrics_port") == 1
    assert asyncio.run(scenario(expected=True)).events == []
