"""Who wants fuller batches may have images wait for others, for so long, and never past a deadline."""

import asyncio
import time

import numpy as np
import pytest

from server.batching.batches import Batch

CURVE = {1: 0.01, 8: 0.02}


def test_without_a_delay_the_first_image_runs_alone_at_once(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, 1)
        assert hand.take().images == 1


def test_a_batch_that_is_not_full_waits_for_more_until_its_oldest_image_has_waited_so_long(by_hand) -> None:
    with by_hand(max_queue_delay_s=1.0) as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, 1)
        assert hand.take() == pytest.approx(1.0)
        hand.clock.now_s += 0.75
        hand.submit(queue, 2)
        assert hand.take() == pytest.approx(0.25)
        hand.clock.now_s += 0.25
        assert hand.take().images == 2
        assert hand.take(1) is None


def test_a_full_batch_waits_for_nobody(by_hand) -> None:
    with by_hand(max_queue_delay_s=60.0) as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *range(9))
        assert hand.take().images == 8
        assert hand.take(1) == pytest.approx(60.0)


def test_a_model_whose_batch_is_full_does_not_wait_for_one_whose_is_not(by_hand) -> None:
    with by_hand(max_queue_delay_s=60.0) as hand:
        first, second = hand.add("first", CURVE), hand.add("second", CURVE)
        hand.submit(first, 1)
        hand.submit(second, *range(8))
        assert hand.take().queue is second
        assert isinstance(hand.take(1), float)


def test_where_lanes_share_the_cores_a_deadline_ends_the_waiting_the_earlier(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1, max_queue_delay_s=60.0) as hand:
        queue = hand.add("m", {1: 0.1, 8: 0.2})
        for value in range(7):
            hand.submit(queue, value, within_s=2.0)
        hand.clock.now_s += hand.take()
        assert hand.take().images == 7


def test_a_deadline_ends_the_waiting_in_time(by_hand) -> None:
    with by_hand(max_queue_delay_s=60.0) as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, 1)
        hurried = hand.submit(queue, 2, within_s=1.0)
        pause_s = hand.take()
        assert 0.9 < pause_s < 1.0 - queue.profile.batch_s(2)
        hand.clock.now_s += pause_s
        batch = hand.take()
        assert batch.images == 2
        hand.run(batch, 0.012)
        assert hurried.result().batch_size == 2


def test_a_lane_waits_and_then_runs_what_has_come(wire) -> None:
    async def scenario() -> None:
        wired = wire(max_batch_size=4, max_queue_delay_s=0.05, clock=time.monotonic)
        image = np.zeros((1, 1, 1), np.uint8)
        answers = [wired.batcher.submit(wired.queue, [image]) for _ in range(3)]
        assert [(await answer).batch_size for answer in answers] == [3, 3, 3]
        # A full one does not wait for the time.
        wired.batcher._max_queue_delay_s = 3600
        answers = [wired.batcher.submit(wired.queue, [image]) for _ in range(4)]
        assert [(await answer).batch_size for answer in answers] == [4, 4, 4, 4]

    asyncio.run(scenario())


def test_a_lane_that_stops_still_runs_what_waits_for_company(wire) -> None:
    async def scenario() -> None:
        wired = wire(max_queue_delay_s=0.05, clock=time.monotonic)
        answer = wired.batcher.submit(wired.queue, [np.zeros((1, 1, 1), np.uint8)])
        assert await asyncio.to_thread(wired.lane.stop, 60)
        assert (await answer).batch_size == 1

    asyncio.run(scenario())


def test_take_gives_a_batch_a_time_or_nothing(by_hand) -> None:
    with by_hand(max_queue_delay_s=1.0) as hand:
        queue = hand.add("m", CURVE)
        assert hand.take() is None
        hand.submit(queue, 1)
        assert isinstance(hand.take(), float)
        hand.submit(queue, *range(7))
        assert isinstance(hand.take(), Batch)
