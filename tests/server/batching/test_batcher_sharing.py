"""Batches of two lanes that share the cores: what is predicted of them, and learned from them."""

import pytest

from server.errors import ExpiredError, OverloadedError
from tests.server.by_hand import carried


def test_batches_that_share_the_cores_come_to_their_ends_the_later(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.1})
        hand.submit(queue, 1)
        first = hand.take(0)
        assert first.ends_s == pytest.approx(hand.clock() + 0.1)
        hand.clock.now_s += 0.05
        hand.submit(queue, 2)
        second = hand.take(1)
        assert second.ends_s == pytest.approx(hand.clock() + 0.2)
        # Of the first 50 ms are left, of the second 100; their own 100 may have to share the cores, too.
        with pytest.raises(OverloadedError, match="predicted completion of m 10 ms late"):
            hand.submit(queue, 3, within_s=0.34)
        assert not hand.submit(queue, 3, within_s=0.36).done()


def test_what_batches_cost_is_not_mistaken_where_they_share_the_cores(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.1})
        for _ in range(50):
            hand.submit(queue, 1, 2)
            one, other = hand.take(0), hand.take(1)
            one.start()
            hand.run(other, 0.2)
            one.finish()
            hand.turn()
            assert hand.take(0) is None
            assert hand.take(1) is None
        assert queue.profile.batch_s(1) == pytest.approx(0.1)


def test_a_batch_that_others_would_make_late_is_made_smaller(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.010, 2: 0.012, 4: 0.016, 8: 0.024})
        hand.submit(queue, *range(8), within_s=0.040)  # alone, eight take 24 ms and four 16
        assert carried(hand.take(0)) == [0, 1, 2, 3]


def test_who_cannot_be_in_time_beside_what_runs_is_dropped(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.1})
        late = hand.submit(queue, 1, within_s=0.16)
        hand.submit(queue, 2, within_s=0.15)
        assert carried(hand.take(0)) == [2]
        assert hand.take(1) is None  # both would take 200 ms
        with pytest.raises(ExpiredError):
            late.result()


def test_who_can_be_in_time_beside_what_is_about_to_end_is_not_dropped(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.1})
        hand.submit(queue, 1)
        hand.take(0)
        hand.clock.now_s += 0.095
        hand.submit(queue, 2, within_s=0.15)
        assert carried(hand.take(1)) == [2]  # it takes 105 ms


def test_where_more_wait_the_lane_that_is_about_to_be_free_is_not_counted_on(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.1})
        hand.submit(queue, 1)
        hand.take(0)
        hand.clock.now_s += 0.095
        late = hand.submit(queue, 2, within_s=0.15)
        hand.submit(queue, 3)
        assert carried(hand.take(1)) == [3]
        with pytest.raises(ExpiredError):
            late.result()


def test_a_small_model_is_not_refused_for_a_large_batch_beside_which_it_would_run(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        small, large = hand.add("small", {1: 0.01}), hand.add("large", {1: 1.0})
        hand.submit(large, 1)
        hand.take(0)
        with pytest.raises(OverloadedError):
            hand.submit(small, 2, within_s=0.015)
        assert not hand.submit(small, 3, within_s=0.025).done()  # it takes 20 ms
        hand.take(1)
        with pytest.raises(OverloadedError):  # both lanes are busy
            hand.submit(small, 4, within_s=0.5)


def test_a_batch_that_was_alone_for_a_while_only_teaches_nothing(by_hand) -> None:
    with by_hand(lanes=2, side_by_side=1) as hand:
        queue = hand.add("m", {1: 0.1})
        for _ in range(20):
            hand.submit(queue, 1)
            first = hand.take(0)
            first.start()
            hand.clock.now_s += 0.05
            hand.submit(queue, 2)
            assert hand.take(1) is not None
            hand.clock.now_s += 0.3  # far too long
            first.finish()
            hand.turn()
            assert [hand.take(0), hand.take(1)] == [None, None]
        assert queue.profile.batch_s(1) == 0.1
