"""A vital task that ends is repaired at once, or ends the process; and everybody can see it."""

import asyncio
import io
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from server.liveness.supervision import Faults, Supervisor
from server.observability import logs
from server.observability.vital_metrics import VitalMetrics
from tests.server.by_hand import Clock


@dataclass
class Supervised:
    """A supervisor of a test: its log, its clock, and why the process should have ended."""

    failures: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    slept_s: list[float] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.stream = io.StringIO()
        self.faults = Faults(lambda: self.changes.append(self.faults.healthy()))
        self.registry = CollectorRegistry()
        metrics = VitalMetrics(self.registry)
        metrics.watch(self.faults.__len__, list)
        self.supervisor = Supervisor(
            self.faults,
            metrics,
            logs.make("json", self.stream),
            self.failures.append,
            clock=self.clock,
            sleep=self._sleep,
        )

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def counted(self, task: str) -> float | None:
        return self.registry.get_sample_value("modelzoo_vital_task_failures_total", {"task": task})

    async def _sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


Run = Callable[[], Coroutine[object, object, None]]


def ending_with(error: BaseException | None, times: int, after: Callable[[], None] = lambda: None) -> Run:
    """Make a task that ends so often, and then goes on for ever."""
    left = [times]

    async def run() -> None:
        if left[0]:
            left[0] -= 1
            after()
            if error is not None:
                raise error
            return
        await asyncio.Event().wait()

    return run


async def turns() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("bad path"), "ValueError"),
        (None, "it returned"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
def test_a_task_that_ends_is_repaired_at_once_and_its_cause_logged_once(
    error: BaseException | None, cause: str
) -> None:
    async def scenario() -> Supervised:
        watched, repairs = Supervised(), []

        async def repair() -> None:
            repairs.append(watched.faults.healthy())

        task = watched.supervisor.supervise("accept_loop", ending_with(error, 1), repair=repair)
        await turns()
        assert not task.done()
        assert repairs == ["vital task accept_loop ended unexpectedly and is being repaired"]
        await watched.supervisor.stop()
        assert task.cancelled()
        return watched

    watched = asyncio.run(scenario())
    ended, repaired = watched.events
    assert (ended["event"], ended["task"], ended["cause"]) == ("vital_task_ended", "accept_loop", cause)
    assert repaired["event"] == "vital_task_repaired"
    assert watched.counted("accept_loop") == 1
    assert watched.counted("lane") == 0
    assert watched.changes[1:] == [""]  # out of order for a while, and then not any more
    assert watched.failures == []
    assert watched.slept_s == []


def test_a_task_that_cannot_be_repaired_ends_the_process() -> None:
    async def scenario() -> Supervised:
        watched = Supervised()
        await watched.supervisor.supervise("lane", ending_with(OSError("gone"), 1))
        return watched

    watched = asyncio.run(scenario())
    assert watched.failures == ["vital task lane ended unexpectedly; the log has the cause"]
    assert watched.faults.healthy() == watched.failures[0]
    assert watched.registry.get_sample_value("modelzoo_faults") == 1


def test_a_repair_that_fails_ends_the_process_and_both_causes_are_logged() -> None:
    async def repair() -> None:
        raise OSError("address already in use")

    async def scenario() -> Supervised:
        watched = Supervised()
        await watched.supervisor.supervise("accept_loop", ending_with(ValueError("first"), 1), repair=repair)
        return watched

    watched = asyncio.run(scenario())
    assert watched.failures == ["vital task accept_loop could not be repaired; the log has the cause"]
    assert [event["cause"] for event in watched.events] == ["ValueError", "OSError"]


def test_a_task_that_ends_again_and_again_ends_the_process() -> None:
    async def repair() -> None:
        pass

    async def scenario(pause_s: float, times: int) -> Supervised:
        watched = Supervised()

        def later() -> None:
            watched.clock.now_s += pause_s

        run = ending_with(ValueError(), times, later)
        watched.supervisor.supervise("connection", run, repair=repair)
        await turns()
        await watched.supervisor.stop()
        return watched

    watched = asyncio.run(scenario(1, 20))
    assert watched.counted("connection") == 6
    assert watched.failures == [
        "vital task connection ended unexpectedly 6 times in a row; the log has the cause"
    ]
    assert watched.slept_s == [0.4, 0.8, 1.6, 3.2]
    patient = asyncio.run(scenario(11, 20))  # each lived for long enough
    assert (patient.counted("connection"), patient.failures) == (20, [])


def test_faults_name_all_that_is_out_of_order() -> None:
    changes: list[str] = []
    faults = Faults(lambda: changes.append(faults.healthy()))
    assert faults.healthy() == ""
    faults.report("lane", "a lane hangs")
    faults.report("event_loop", "the event loop is blocked")
    faults.report("lane", "a lane still hangs")
    assert faults.healthy() == "a lane still hangs; the event loop is blocked"
    faults.clear("lane")
    faults.clear("lane")
    faults.clear("event_loop")
    assert changes == ["a lane hangs", ""]
