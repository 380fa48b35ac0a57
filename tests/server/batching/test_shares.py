"""Peers have equal shares of a model's queue: who sends much neither delays nor keeps out others."""

import pytest

from server.errors import OverloadedError

CURVE = {1: 0.1, 4: 0.25}


def batches(hand, count: int) -> list[list[int]]:
    """Run so many batches; give what they carried."""
    return [hand.run_next(0.25) for _ in range(count)]


def test_who_sends_little_goes_before_all_that_others_have_waiting(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        for one in range(8):
            hand.submit(queue, *[one] * 4, peer="much")
            hand.clock.now_s += 0.05
        hand.submit(queue, 9, peer="little")
        assert batches(hand, 2) == [[9, 0, 0, 0], [0, 1, 1, 1]]


def test_two_peers_that_send_much_take_turns_with_a_third_between_them(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *[1] * 16, peer="one")
        hand.submit(queue, *[2] * 16, peer="other")
        assert batches(hand, 2) == [[1, 1, 1, 1]] * 2
        hand.submit(queue, 3, peer="third")
        assert batches(hand, 2) == [[3, 1, 1, 1], [1, 1, 1, 1]]


def test_images_of_one_peer_keep_their_order_whatever_came_between(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        for one in range(6):
            hand.submit(queue, one, peer="one")
        assert batches(hand, 2) == [[0, 1, 2, 3], [4, 5]]


def test_who_waits_long_goes_before_any_number_of_newcomers(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *[1] * 8, peer="much")
        ran = []
        for _ in range(12):  # as many newcomers as the device can do, and each alone is light
            for one in range(4):
                hand.submit(queue, 2, peer=f"light {one}")
            ran += batches(hand, 1)
        assert sum(images.count(1) for images in ran) == 8


def test_a_deadline_that_is_near_still_comes_first(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE)
        hand.submit(queue, *[1] * 4, peer="much")
        hand.submit(queue, 2, peer="little")
        hand.submit(queue, 3, peer="hurried", within_s=0.3)
        assert batches(hand, 1) == [[3, 2, 1, 1]]


def test_a_queue_that_one_peer_has_filled_has_room_for_others_who_send_little(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, max_queue_size=16)
        hand.submit(queue, *range(16), peer="much")
        for peer, images in (("much", 1), ("as much", 16), ("a third", 3)):
            with pytest.raises(OverloadedError, match="queue full: 16 of 16 images queued for m"):
                hand.submit(queue, *range(images), peer=peer)
        hand.submit(queue, 1, 2, peer="little")  # two of two peers: a quarter of the queue
        hand.submit(queue, 3, peer="less")
        for peer in ("less", "little", "much", "another"):
            with pytest.raises(OverloadedError, match="queue full: 19 of 16"):
                hand.submit(queue, 4, 5, peer=peer)
        assert queue.waiting == 19
        assert hand.unanswered("m")["queue_full"] == 28


def test_what_is_taken_or_withdrawn_counts_no_more(by_hand) -> None:
    with by_hand() as hand:
        queue = hand.add("m", CURVE, max_queue_size=16)
        withdrawn = hand.submit(queue, *range(4), peer="one")
        hand.submit(queue, *[7] * 12, peer="other")
        withdrawn.cancel()
        hand.turn()
        assert queue.waiting == 12
        assert batches(hand, 3) == [[7, 7, 7, 7]] * 3
        level = queue.levels[0]
        assert (level.waiting, level._waiting_by_peer) == (0, {})
