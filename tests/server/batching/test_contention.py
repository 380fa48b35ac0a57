"""How far batches come that slow each other down, and when they end."""

import pytest

from server.batching.contention import Contention


@pytest.mark.parametrize(
    ("side_by_side", "slowdowns"),
    [(1, [1, 2, 3]), (2, [1, 1, 1.5]), (1.5, [1, 4 / 3, 2])],
)
def test_batches_slow_each_other_down_only_where_the_cores_are_too_few(
    side_by_side: float, slowdowns: list[float]
) -> None:
    contention = Contention(3, side_by_side, now_s=0.0)
    assert contention.slowest == pytest.approx(slowdowns[-1])
    for lane, slowdown in enumerate(slowdowns):
        assert contention.beside(lane) == pytest.approx(slowdown)
        assert contention.any_free
        contention.begin(lane, 9.0, now_s=0.0)
        assert contention.beside(lane) == pytest.approx(slowdown)  # what runs on a lane is not beside it
        assert contention.slowdown == pytest.approx(slowdown)
    assert not contention.any_free


def test_work_is_the_time_that_a_batch_would_have_taken_alone() -> None:
    contention = Contention(3, 1, now_s=100.0)
    contention.begin(0, 200.0, 100.0)
    contention.begin(1, 200.0, 101.0)
    assert contention.work_s(103.0) == 2.0  # a second alone, and two with another
    contention.begin(2, 200.0, 103.0)
    contention.end(0, 106.0)
    contention.end(2, 106.0)
    assert contention.work_s(106.5) == 3.5
    contention.end(1, 107.0)
    assert (contention.slowdown, contention.work_s(108.0)) == (1.0, 5.0)


def test_ends_come_later_when_another_batch_begins_and_sooner_when_it_ends() -> None:
    contention = Contention(2, 1, now_s=0.0)
    assert contention.free_s(0, 0.0) == 0.0
    contention.begin(0, 10.0, 0.0)
    contention.begin(1, 16.0, 4.0)  # six seconds are left of the first, and take twelve now
    assert (contention.free_s(0, 4.0), contention.free_s(1, 4.0)) == (16.0, 16.0)
    assert contention.running_s(4.0) == 12.0
    contention.end(1, 10.0)  # three of them are left
    assert contention.free_s(0, 10.0) == 13.0
    assert contention.running_s(10.0) == 3.0


def test_an_overdue_batch_has_no_predicted_time_left_and_still_takes_its_share() -> None:
    contention = Contention(2, 1, now_s=0.0)
    contention.begin(0, 1.0, 0.0)
    assert contention.running_s(5.0) == 0.0
    assert contention.free_s(0, 5.0) == 5.0
    assert contention.takes_s(2.0, 5.0) == 2.0
    assert contention.beside(1) == 2.0
    contention.begin(1, 9.0, 5.0)
    assert contention.free_s(0, 5.0) == 5.0


@pytest.mark.parametrize(
    ("side_by_side", "others_s", "takes_s"),
    [(1, [], 2), (1, [1], 3), (1, [9], 4), (1, [1, 9], 5), (2, [9], 2), (2, [9, 9], 3), (2, [1, 9], 2.5)],
)
def test_work_beside_others_takes_its_own_time_and_their_share(
    side_by_side: float, others_s: list[float], takes_s: float
) -> None:
    contention = Contention(3, side_by_side, now_s=0.0)
    for lane, left_s in enumerate(others_s):
        contention.begin(lane, left_s * contention.beside(lane), 0.0)
    assert contention.takes_s(2, 0.0) == pytest.approx(takes_s)


def test_work_on_a_lane_is_not_beside_what_ran_there() -> None:
    contention = Contention(2, 1, now_s=0.0)
    contention.begin(0, 5.0, 0.0)
    assert contention.takes_s(2.0, 0.0, lane=0) == 2.0
    assert contention.takes_s(2.0, 0.0, lane=1) == contention.takes_s(2.0, 0.0) == 4.0
