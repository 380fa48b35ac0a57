"""Interactive images go before bulk ones, which take what is left and do not starve."""

from itertools import pairwise

import pytest

from server.errors import OverloadedError
from tests.server.by_hand import carried

CURVE = {4: 0.125}


def test_interactive_images_go_before_bulk_ones_of_any_model(by_hand) -> None:
    with by_hand(lanes=4) as hand:
        mine, other = hand.add("mine", CURVE), hand.add("other", CURVE)
        hand.submit(mine, 1, bulk=True)
        hand.submit(other, 2, bulk=True, within_s=0.15)
        hand.clock.now_s += 0.01
        hand.submit(mine, 3)
        hand.submit(other, 4)
        batches = [carried(hand.take(lane)) for lane in range(4)]
    assert batches == [[3], [4], [2], [1]]


def test_each_priority_has_a_bound_of_its_own_and_keeps_nobody_out(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, max_queue_size=8)
        hand.submit(queue, *range(8), bulk=True)
        with pytest.raises(OverloadedError, match="queue full: 8 of 8 images queued for m, 1 requested"):
            hand.submit(queue, 9, bulk=True)
        hand.submit(queue, *range(8))
        assert queue.waiting == 16
        with pytest.raises(OverloadedError, match="queue full: 8 of 8 images queued for m"):
            hand.submit(queue, 9)
        assert carried(hand.take()) == [0, 1, 2, 3]
        with pytest.raises(OverloadedError):
            hand.submit(queue, 9, bulk=True)
        hand.submit(queue, 9)


def test_bulk_images_that_wait_do_not_count_against_an_interactive_deadline(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *range(40), bulk=True)
        assert not hand.submit(queue, 1, within_s=0.13).done()
        with pytest.raises(OverloadedError):
            hand.submit(queue, 1, bulk=True, within_s=1.3)  # eleven batches take longer


def flood(hand, queue, batches: int) -> list[list[int]]:
    """Run batches while four interactive images come during each; give what they carried."""
    ran = []
    for _ in range(batches):
        hand.submit(queue, 1, 1, 1, 1)
        ran.append(hand.run_next(0.125))
    return ran


def test_bulk_images_get_a_tenth_of_a_device_that_has_no_time_left(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        for _ in range(30):
            hand.submit(queue, 2, bulk=True)
        ran = flood(hand, queue, 40)
    bulk = [number for number, values in enumerate(ran) if values == [2] * 4]
    assert ran.count([1] * 4) == 40 - len(bulk)
    assert bulk[0] == 10  # passed over ten times
    assert all(10 <= after - before <= 12 for before, after in pairwise(bulk))


def test_who_has_waited_for_a_bulk_batch_does_not_wait_for_another(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *[2] * 40, bulk=True)
        first = hand.take()
        assert carried(first) == [2] * 4
        hand.clock.now_s += 0.05
        hand.submit(queue, *[1] * 60)  # they wait for the rest of that one
        hand.run(first, 0.075)
        for _ in range(15):
            batch = hand.take()
            assert carried(batch) == [1] * 4
            hand.run(batch, 0.125)
        assert carried(hand.take()) == [2] * 4


def test_a_bulk_batch_that_was_passed_over_goes_before_images_that_came_after_the_last_one(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *[2] * 8, bulk=True)
        hand.clock.now_s += 5 * 0.125
        hand.submit(queue, *[1] * 60)
        ran = [hand.run_next(0.125)[0] for _ in range(17)]
    assert ran == [1] * 5 + [2] + [1] * 10 + [2]  # one, and not a second while the same sixty wait


def test_on_several_lanes_too_only_one_bulk_batch_begins_while_interactive_images_wait(by_hand) -> None:
    with by_hand(lanes=3) as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *[2] * 40, bulk=True)
        hand.clock.now_s += 5
        hand.submit(queue, *[1] * 60)
        assert [carried(hand.take(lane))[0] for lane in range(3)] == [2, 1, 1]


def test_where_batches_slow_each_other_down_no_bulk_batch_begins_beside_another_batch(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, 1)
        interactive = hand.take(0)
        hand.submit(queue, *[2] * 20, bulk=True)
        assert hand.take(1) is None
        hand.run(interactive, 0.1)
        bulk = hand.take(0)
        assert carried(bulk) == [2] * 4
        assert hand.take(1) is None
        hand.submit(queue, 3)
        assert carried(hand.take(1)) == [3]  # beside the bulk batch, and not after it
        hand.run(bulk, 0.1)
        assert hand.take(0) is None


def test_where_there_are_cores_to_spare_bulk_batches_take_them(by_hand) -> None:
    with by_hand(lanes=3, side_by_side=2) as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, 1)
        assert carried(hand.take(0)) == [1]
        hand.submit(queue, *[2] * 20, bulk=True)
        assert carried(hand.take(1)) == [2] * 4
        assert hand.take(2) is None


def test_bulk_images_ride_in_the_seats_that_padding_would_fill(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {4: 0.1, 8: 0.15}, padded=True)
        hand.submit(queue, 1, 1, 1)
        in_time = hand.submit(queue, 2, bulk=True, within_s=5)
        hand.submit(queue, 3, 3, bulk=True)
        batch = hand.take()
        assert carried(batch) == [1, 1, 1, 2]
        hand.run(batch, 0.125)
        assert in_time.result().batch_size == 4
        assert carried(hand.take()) == [3, 3]


def test_nobody_rides_in_a_batch_that_ends_too_late_for_them(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {1: 0.1, 8: 0.3}, padded=True)
        hurried = hand.submit(queue, 2, bulk=True, within_s=0.2)
        hand.submit(queue, 1, 1, 1)
        assert carried(hand.take()) == [1, 1, 1]
        assert not hurried.done()


def test_where_any_size_is_free_there_are_no_free_seats(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {1: 0.1, 8: 0.15})
        hand.submit(queue, 1, 1, 1)
        hand.submit(queue, 2, bulk=True)
        assert carried(hand.take()) == [1, 1, 1]
