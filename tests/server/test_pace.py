"""How far batches come that slow each other down."""

import pytest

from server.pace import Pace


@pytest.mark.parametrize(
    ("side_by_side", "slowdowns"),
    [(1, [1, 1, 2, 3]), (2, [1, 1, 1, 1.5]), (1.5, [1, 1, 4 / 3, 2])],
)
def test_batches_slow_each_other_down_only_where_the_cores_are_too_few(
    side_by_side: float, slowdowns: list[float]
) -> None:
    pace = Pace(side_by_side, now_s=0.0)
    assert [pace.slowdown(batches) for batches in range(4)] == pytest.approx(slowdowns)


def test_work_is_the_time_that_a_batch_would_have_taken_alone() -> None:
    pace = Pace(1, now_s=100.0)
    assert pace.change(1, 100.0) == 1.0
    assert pace.change(2, 101.0) == 2.0  # what is left of the first will take twice as long
    assert pace.work_s(103.0) == 2.0  # a second alone, and two with another
    assert pace.change(3, 103.0) == 1.5
    assert pace.change(1, 106.0) == pytest.approx(1 / 3)
    assert pace.work_s(106.5) == 3.5
    assert pace.change(0, 107.0) == 1.0


@pytest.mark.parametrize(
    ("side_by_side", "others_s", "takes_s"),
    [(1, [], 2), (1, [1], 3), (1, [9], 4), (1, [1, 9], 5), (2, [9], 2), (2, [9, 9], 3), (2, [1, 9], 2.5)],
)
def test_work_beside_others_takes_its_own_time_and_their_share(
    side_by_side: float, others_s: list[float], takes_s: float
) -> None:
    assert Pace(side_by_side, now_s=0.0).beside_s(2, others_s) == takes_s
