"""Which model goes next, with how many images, and who is refused or dropped, by what batches cost."""

import asyncio
import math

import numpy as np
import pytest

from server.errors import ExpiredError, InferenceError, OverloadedError
from tests.server.by_hand import carried

# Per batch: 10 ms and 2 ms an image more, so the larger, the better.
CURVE = {size: 0.008 + 0.002 * size for size in (1, 2, 4, 8)}


def test_without_deadlines_a_batch_takes_all_that_fit(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        first, second = hand.submit(queue, *range(5)), hand.submit(queue, *range(5, 11))
        batch = hand.take()
        assert carried(batch) == list(range(8))
        assert queue.waiting == 3
        hand.run(batch, 0.024)
        assert (first.done(), second.done()) == (True, False)
        last = hand.take()
        assert carried(last) == [8, 9, 10]
        hand.run(last, 0.014)
        assert (second.result().probabilities[:, 0] * 255).round().tolist() == list(range(5, 11))
        assert hand.take() is None


def test_the_size_is_the_largest_that_keeps_every_deadline(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        for value in range(8):
            hand.submit(queue, value, within_s=0.030)
        hand.clock.now_s += 0.013  # 17 ms are left: time for four, 16 ms, and not for eight, 24 ms
        assert carried(hand.take()) == [0, 1, 2, 3]


def test_who_is_due_first_goes_first_and_who_has_time_waits_in_the_order_of_coming(by_hand) -> None:
    with by_hand(lanes=2) as hand:
        queue = hand.add("m", {4: 0.01})
        hand.submit(queue, 1)
        hand.submit(queue, 2, within_s=3600)
        hand.submit(queue, 3, within_s=0.5)
        hand.submit(queue, 4, within_s=0.2)
        hand.submit(queue, 5, within_s=0.5)
        assert carried(hand.take()) == [4, 3, 5, 1]
        assert carried(hand.take(1)) == [2]


def test_who_has_no_deadline_goes_before_who_came_a_second_later_in_a_hurry(by_hand) -> None:
    with by_hand(lanes=3) as hand:
        queue = hand.add("m", {1: 0.01})
        hand.submit(queue, 1)
        hand.clock.now_s += 0.9
        hand.submit(queue, 2, within_s=0.05)
        hand.clock.now_s += 0.01
        hand.submit(queue, 3, within_s=0.1)
        assert [carried(hand.take(lane)) for lane in range(3)] == [[2], [1], [3]]


def test_the_model_with_the_least_slack_goes_first(by_hand) -> None:
    with by_hand(lanes=2) as hand:
        quick, slow = hand.add("quick", {1: 0.001}), hand.add("slow", {1: 0.100})
        hand.submit(quick, 1, within_s=0.15)
        hand.submit(slow, 2, within_s=0.20)  # later due, but it must begin by 0.10
        assert carried(hand.take()) == [2]
        assert carried(hand.take(1)) == [1]


def test_a_padded_batch_is_not_made_larger_where_that_gives_fewer_images_per_second(by_hand) -> None:
    with by_hand(lanes=2) as hand:
        queue = hand.add("m", {4: 0.010, 8: 0.018}, padded=True)
        hand.submit(queue, *range(5))
        assert carried(hand.take()) == [0, 1, 2, 3]  # five would be padded to eight
        hand.submit(queue, *range(5, 12))
        assert len(carried(hand.take(1))) == 8


def test_whose_deadline_cannot_be_kept_even_alone_is_dropped_before_any_computing(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        late, timely = hand.submit(queue, 1, within_s=0.05), hand.submit(queue, 2, within_s=0.06)
        large = hand.submit(queue, *range(3, 11), within_s=0.07)
        hand.clock.now_s += 0.048  # 2 ms, 12 ms and 22 ms are left; alone they take 10, 10 and 24
        assert carried(hand.take()) == [2]
        for dropped in (late, large):
            with pytest.raises(ExpiredError, match="deadline passed in the queue, or cannot be met any more"):
                dropped.result()
        assert not timely.done()
        assert hand.take(1) is None
        assert hand.unanswered("m") == {"expired": 9}


def test_an_answer_that_the_device_gave_too_late_is_withheld(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        late, timely = hand.submit(queue, 1, within_s=0.02), hand.submit(queue, 2, within_s=0.1)
        hand.run(hand.take(), 0.02)
        with pytest.raises(ExpiredError, match="the answer came after the deadline"):
            late.result()
        assert timely.result().infer_s == pytest.approx(0.02)
        assert hand.unanswered("m") == {"expired": 1}


@pytest.mark.parametrize("within_s", [-1, 0, 0.009])
def test_the_door_tells_at_once_who_would_be_late_even_alone(by_hand, within_s: float) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        with pytest.raises(
            ExpiredError, match="deadline cannot be met: it has passed, or is shorter than one batch takes"
        ):
            hand.submit(queue, 1, within_s=within_s)
        assert hand.unanswered("m") == {"expired": 1}
        assert not hand.submit(queue, 1, within_s=0.011).done()


def test_a_model_that_refuses_everybody_is_tried_again_until_it_is_known_better(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {1: 1.0})  # measured while the machine was busy; it takes 0.1 s
        answers = []
        for _ in range(200):
            hand.clock.now_s += 0.2
            try:
                answers.append(hand.submit(queue, 1, within_s=0.6))
            except ExpiredError:
                answers.append(None)
            else:
                hand.run(hand.take(), 0.1)
                assert hand.take() is None
        assert answers[0] is None
        assert None not in answers[-50:]
        assert all(answer.result() for answer in answers if answer)


def test_the_door_refuses_who_would_be_late_for_what_waits_and_says_by_how_much(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        for value in range(16):
            hand.submit(queue, value, within_s=0.050)
        assert len(carried(hand.take())) == 8
        # 24 ms run and eight images wait; the ninth ends 24 + 24 + 10 ms from now.
        with pytest.raises(OverloadedError, match="predicted completion of m 7 ms late") as caught:
            hand.submit(queue, 99, within_s=0.051)
        assert caught.value.retry_delay_s == 0.01  # the least
        with pytest.raises(OverloadedError) as caught:
            hand.submit(queue, *range(20), within_s=0.090)  # 64 ms, were nobody else there
        assert caught.value.retry_delay_s == pytest.approx(0.024 + 0.088 - 0.090)
        assert hand.unanswered("m") == {"late": 21}


def test_who_is_due_earlier_does_not_wait_for_those_who_have_time(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *range(50))
        hurried = hand.submit(queue, 99, within_s=0.015)
        assert carried(hand.take()) == [99, 0]  # two take 12 ms, four 16
        assert not hurried.done()


def test_images_of_other_models_that_go_first_count_at_the_door(by_hand) -> None:
    with by_hand() as hand:
        mine, other = hand.add("mine", {1: 0.01}), hand.add("other", {1: 0.1})
        hand.submit(other, *range(5), within_s=0.502)
        with pytest.raises(OverloadedError):
            hand.submit(mine, 1, within_s=0.505)
        assert not hand.submit(mine, 1, within_s=0.52).done()
        assert not hand.submit(mine, 1, within_s=0.02).done()  # it goes first


@pytest.mark.parametrize(("side_by_side", "images"), [(2, 9), (1, 4)])
def test_two_lanes_drain_what_waits_in_half_the_time_unless_they_share_the_cores(
    by_hand, side_by_side: int, images: int
) -> None:
    with by_hand(lanes=2, side_by_side=side_by_side) as hand:
        queue = hand.add("m", {1: 0.1})
        hand.submit(queue, *range(images), within_s=0.5)
        with pytest.raises(OverloadedError):
            hand.submit(queue, 10, 11, within_s=0.51)
        assert not hand.submit(queue, 10, within_s=0.51).done()


def test_a_full_queue_says_how_long_what_is_too_much_takes(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {4: 1.0}, max_queue_size=64)
        hand.submit(queue, *range(64))
        with pytest.raises(
            OverloadedError, match="queue full: 64 of 64 images queued for m, 8 requested"
        ) as full:
            hand.submit(queue, *range(8))
        assert full.value.retry_delay_s == 2.0
        running = hand.take()
        with pytest.raises(OverloadedError) as full:
            hand.submit(queue, *range(8))
        assert full.value.retry_delay_s == 2.0  # one second runs, and four images are too many
        hand.run(running, 0.75)
        assert hand.unanswered("m") == {"queue_full": 16}


def test_a_cancelled_future_gives_up_its_seats_at_once(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {4: 1.0})
        doomed, mate = hand.submit(queue, 1, 2, 3), hand.submit(queue, 4)
        assert doomed.cancel()
        assert not doomed.cancel()
        assert queue.waiting == 1
        batch = hand.take()
        assert carried(batch) == [4]
        hand.run(batch, 1.0)
        assert mate.result().batch_size == 1
        assert hand.unanswered("m") == {"cancelled": 3}


def test_a_wait_that_runs_out_gives_up_the_seats_too(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {4: 1.0})

        async def wait() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hand.submit(queue, 1), 0)
            picture = np.zeros((1, 1, 1), np.uint8)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hand.batcher.submit(queue, [picture] * 3), 0.001)

        hand.loop.run_until_complete(wait())
        assert queue.waiting == 0
        assert hand.unanswered("m") == {"cancelled": 4}


class Marked:
    """A network that answers no number for a picture of the value 137."""

    def infer(self, rows):
        return np.float32([[math.nan if row.flat[0] == 137 else 0.25, 0.75] for row in rows])


def test_an_answer_that_is_no_number_fails_its_own_request_and_no_other(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", {8: 0.01}, network=Marked())
        before, marked, after = (
            hand.submit(queue, 1),
            hand.submit(queue, *range(131, 151)),
            hand.submit(queue, 2, 3),
        )
        hand.run(hand.take(), 0.01)
        assert before.result().probabilities.tolist() == [[0.25, 0.75]]
        with pytest.raises(InferenceError, match=r"^images\[6\]: the network's answer is not a number$"):
            marked.result()
        assert queue.waiting == 2  # the rest of it has left
        hand.run(hand.take(), 0.01)
        assert after.result().probabilities.tolist() == [[0.25, 0.75]] * 2
        assert hand.unanswered("m") == {"failed": 20}
        [(model, error)] = hand.logged
        assert (model, str(error)) == ("m", "1 of 8 answers are not numbers")
