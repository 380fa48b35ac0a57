"""What becomes of images that wait: they expire, are withdrawn, fail or are told of the stop, once each."""

import asyncio
import threading

import numpy as np
import pytest

from server.errors import ExpiredError, InferenceError, ModelNotReadyError, OverloadedError
from server.inference import Answer, Priority
from tests.server.progress import CountingCondition

MODEL = "lenet5-digits"


def rows(*values: int) -> list[np.ndarray]:
    """Make pictures of one value each; `Echo` answers it."""
    return [np.full((2, 2, 1), value, np.uint8) for value in values]


def labels(answer: Answer) -> list[float]:
    return (answer.probabilities[:, 0] * 255).round().tolist()


async def submit(wired, *values: int, deadline_s: float | None = None) -> "asyncio.Task[Answer]":
    """Queue pictures; they wait, or their batch has begun, when this returns."""
    task = asyncio.ensure_future(wired.batcher.submit(wired.queue, rows(*values), deadline_s))
    await asyncio.sleep(0)  # the task's turn
    return task


async def hold(wired, *values: int) -> "asyncio.Task[Answer]":
    """Submit pictures, and hold the lane with them."""
    wired.network.shut()
    task = await submit(wired, *values)
    assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
    return task


def test_images_whose_deadline_passed_in_the_queue_are_never_computed(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        held = await hold(wired, 1)
        late = await submit(wired, 2, 3, 4, deadline_s=wired.clock() + 5)
        timely = await submit(wired, 5, deadline_s=wired.clock() + 3600)
        unhurried = await submit(wired, 6)
        assert wired.waiting() == 5
        wired.clock.now_s += 5
        wired.network.gate.set()
        with pytest.raises(ExpiredError, match="deadline passed in the queue"):
            await late
        assert [labels(await task) for task in (held, timely, unhurried)] == [[1], [5], [6]]
        assert wired.network.batches == [1, 2]
        assert wired.unanswered("expired") == 3
        assert wired.unanswered("cancelled") == 0
        assert wired.waiting() == 0

    asyncio.run(scenario())


def test_nothing_is_computed_for_who_comes_too_late(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        with pytest.raises(ExpiredError):
            await wired.batcher.submit(wired.queue, rows(1, 2), wired.clock())
        assert labels(await wired.batcher.submit(wired.queue, rows(3))) == [3]
        assert wired.network.batches == [1]
        assert wired.unanswered("expired") == 2

    asyncio.run(scenario())


def test_a_split_request_expires_whole_and_gives_up_the_seats_that_it_had_not_taken(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        wired.network.shut()
        split = await submit(wired, *range(6), deadline_s=wired.clock() + 5)
        assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
        other = await submit(wired, 7, deadline_s=wired.clock() + 6)
        assert wired.waiting() == 2 + 1
        wired.clock.now_s += 5
        wired.network.gate.set()
        with pytest.raises(ExpiredError):
            await split
        assert labels(await other) == [7]
        assert wired.network.batches == [4, 1]
        assert wired.unanswered("expired") == 6
        assert wired.waiting() == 0

    asyncio.run(scenario())


def test_an_answer_that_comes_after_its_deadline_is_not_given(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        wired.network.shut()
        late = await submit(wired, 1, 2, deadline_s=wired.clock() + 5)
        assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
        wired.clock.now_s += 5
        wired.network.gate.set()
        with pytest.raises(ExpiredError, match=r"^the answer came after the deadline$"):
            await late
        assert wired.unanswered("expired") == 2
        assert labels(await wired.batcher.submit(wired.queue, rows(3), wired.clock() + 5)) == [3]

    asyncio.run(scenario())


def test_images_are_counted_as_expired_once_where_the_cancellation_comes_as_well(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        held = await hold(wired, 1)
        late = await submit(wired, 2, 3, deadline_s=wired.clock() + 5)
        wired.clock.now_s += 5
        with wired.wake:  # a lane that takes now
            assert wired.batcher.take(1) is None
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        wired.network.gate.set()
        await held
        assert wired.unanswered("expired") == 2
        assert wired.unanswered("cancelled") == 0

    asyncio.run(scenario())


# A client's own clock runs out some milliseconds before ours.
@pytest.mark.parametrize(("left_s", "reason"), [(0, "expired"), (0.01, "expired"), (3600, "cancelled")])
def test_a_cancelled_caller_is_counted_as_late_where_its_deadline_has_passed(wire, left_s, reason) -> None:
    async def scenario() -> None:
        wired = wire()
        held = await hold(wired, 1)
        doomed = await submit(wired, 2, 3, 4, deadline_s=wired.clock() + 5 + left_s)
        mate = await submit(wired, 5)
        assert wired.waiting() == 4
        wired.clock.now_s += 5
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert wired.waiting() == 1
        wired.network.gate.set()
        assert [labels(await task) for task in (held, mate)] == [[1], [5]]
        assert wired.network.batches == [1, 1]
        reasons = ("expired", "cancelled", "failed", "queue_full", "late")
        counts = {name: wired.unanswered(name) for name in reasons}
        assert counts == dict.fromkeys(reasons, 0) | {reason: 3}

    asyncio.run(scenario())


def test_what_does_not_fit_is_refused_whole_and_counted(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        held = await hold(wired, 1)
        queued = await submit(wired, *range(60))
        with pytest.raises(
            OverloadedError, match="queue full: 60 of 64 images queued for lenet5-digits, 5 requested"
        ):
            await wired.batcher.submit(wired.queue, rows(*range(5)))
        assert (wired.waiting(), wired.unanswered("queue_full")) == (60, 5)
        fits = await submit(wired, *range(4))
        assert wired.waiting() == 64
        wired.network.gate.set()
        assert [len(labels(await task)) for task in (held, queued, fits)] == [1, 60, 4]
        assert (wired.waiting(), wired.unanswered("queue_full")) == (0, 5)

    asyncio.run(scenario())


def test_a_failed_batch_fails_exactly_the_requests_it_carried(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        cause = RuntimeError("CUDA error 700")
        held = await hold(wired, 1)
        first, second = await submit(wired, 2, 3), await submit(wired, 4, 5)
        third = await submit(wired, 6, 7)
        wired.network.failures.extend([None, cause])
        wired.network.gate.set()
        for failed in (first, second):
            with pytest.raises(InferenceError, match=r"^the device failed this batch$"):
                await failed
        assert [labels(await task) for task in (held, third)] == [[1], [6, 7]]
        assert wired.network.batches == [1, 4, 2]
        assert wired.unanswered("failed") == 4
        assert wired.logged == [(MODEL, cause)]

    asyncio.run(scenario())


def test_the_rest_of_a_request_whose_batch_failed_is_withdrawn(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        split = await hold(wired, *range(11))  # batches of 4, 4 and 3, were it not to fail
        mate = await submit(wired, 99)
        assert wired.waiting() == 7 + 1
        pause = threading.Event()
        wired.lane.call(lambda: pause.wait(60))  # goes first, so nothing is taken after the failure
        wired.network.failures.append(RuntimeError("out of memory"))
        wired.network.gate.set()
        with pytest.raises(InferenceError):
            await split
        assert wired.waiting() == 1  # the mate alone
        assert wired.unanswered("failed") == 4 + 7
        pause.set()
        assert labels(await mate) == [99]
        assert wired.network.batches == [4, 1]

    asyncio.run(scenario())


def test_a_log_that_fails_hangs_no_caller(wire) -> None:
    def full_disk(model: str, error: Exception) -> None:
        raise OSError("no space left on device")

    async def scenario() -> None:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(str(context["exception"]))
        )
        wired = wire(log_failure=full_disk)
        wired.network.failures.append(RuntimeError("CUDA error 700"))
        with pytest.raises(InferenceError):
            await asyncio.wait_for(wired.batcher.submit(wired.queue, rows(1, 2)), 60)
        assert complaints == ["no space left on device"]
        assert wired.unanswered("failed") == 2
        assert labels(await wired.batcher.submit(wired.queue, rows(3))) == [3]

    asyncio.run(scenario())


def test_closing_fails_who_waits_answers_what_runs_and_takes_no_more(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        held = await hold(wired, 1)
        left = [await submit(wired, 2, 3), await submit(wired, 4)]
        wired.batcher.close()
        for task in left:
            with pytest.raises(ModelNotReadyError, match=r"^the server is stopping$"):
                await asyncio.wait_for(task, 60)
        assert wired.waiting() == 0
        with pytest.raises(ModelNotReadyError, match=r"^the server is stopping$"):
            await asyncio.wait_for(wired.batcher.submit(wired.queue, rows(5)), 60)
        wired.network.gate.set()
        assert labels(await held) == [1]
        assert wired.network.batches == [1]

    asyncio.run(scenario())


def test_a_split_request_wakes_a_lane_for_every_batch(wire) -> None:
    async def scenario() -> None:
        wired = wire(lanes=3)
        wired.network.shut()
        split = await submit(wired, *range(11))
        for _ in range(3):
            assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
        assert wired.waiting() == 0
        wired.network.gate.set()
        assert labels(await split) == list(range(11))
        assert sorted(wired.network.batches) == [3, 4, 4]

    asyncio.run(scenario())


def test_who_comes_in_one_turn_of_the_event_loop_rides_in_one_batch(wire) -> None:
    async def scenario() -> None:
        wake = CountingCondition()
        wired = wire(wake=wake)
        assert await asyncio.to_thread(wake.waits.acquire, timeout=60)
        first = wired.batcher.submit(wired.queue, rows(0))
        assert wake.woken == 0  # the loop stands still here
        others = [wired.batcher.submit(wired.queue, rows(value)) for value in (1, 2, 3)]
        await asyncio.wait_for(asyncio.gather(first, *others), 60)
        assert wired.network.batches == [4]

    asyncio.run(scenario())


def test_every_batch_of_one_turn_of_the_event_loop_gets_a_lane_that_is_idle(wire) -> None:
    async def scenario() -> None:
        wake = CountingCondition()
        wired = wire(lanes=2, wake=wake)
        wired.network.shut()
        for _ in range(2):
            assert await asyncio.to_thread(wake.waits.acquire, timeout=60)
        bulk = wired.batcher.submit(wired.queue, rows(0), priority=Priority.BULK)
        interactive = wired.batcher.submit(wired.queue, rows(1))
        for _ in range(2):  # neither waits for the other's lane
            assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
        wired.network.gate.set()
        assert [labels(await one) for one in (bulk, interactive)] == [[0], [1]]

    asyncio.run(scenario())
