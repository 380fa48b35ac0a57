"""What batches are predicted to take: from what was measured, put right by what runs."""

import pytest

from server.batching.latency_profile import LatencyProfile, default_sizes, up_to_knee

# Twice the images for less than twice the time, up to 4; then no more.
CURVE = {1: 0.010, 2: 0.016, 4: 0.024, 8: 0.048}


def profile(
    curve: dict[int, float] = CURVE, *, padded: bool = False, side_by_side: float = 1
) -> LatencyProfile:
    return LatencyProfile(curve, padded=padded, measured_s=0.0, side_by_side=side_by_side)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (32, [1, 2, 4, 8, 16, 32]), (5, [1, 2, 4, 5])],
)
def test_the_default_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: list[int]) -> None:
    assert default_sizes(largest) == sizes


@pytest.mark.parametrize(
    ("latency_s", "kept"),
    [
        (CURVE, [1, 2, 4]),
        ({1: 0.1}, [1]),
        ({1: 0.1, 2: 0.2, 4: 0.4}, [1]),  # nothing to be gained
        ({1: 0.1, 2: 0.1, 4: 0.1}, [1, 2, 4]),  # everything
        ({1: 0.1, 2: 0.18, 4: 0.4, 8: 0.6}, [1, 2, 4, 8]),  # a dip is no knee
        ({1: 0.1, 2: 0.198, 4: 0.394}, [1]),  # two in a hundred is not worth it
        ({1: 0.1, 2: 0.19, 4: 0.37}, [1, 2, 4]),
        ({1: 0.0001, 2: 0.0002, 4: 0.01, 8: 0.02}, [1, 2, 4]),  # nobody notices ten milliseconds
    ],
)
def test_sizes_beyond_the_knee_are_left_out(latency_s: dict[int, float], kept: list[int]) -> None:
    assert list(up_to_knee(latency_s)) == kept


def test_where_sizes_are_free_the_time_between_two_is_interpolated() -> None:
    free = profile()
    expected_ms = [10, 16, 20, 24, 30, 36, 42, 48]
    assert [free.batch_s(images) * 1e3 for images in range(1, 9)] == pytest.approx(expected_ms)
    assert [free.padded_size(images) for images in range(1, 9)] == list(range(1, 9))


def test_where_batches_are_padded_each_takes_the_time_of_the_size_above() -> None:
    padded = profile(padded=True)
    assert [padded.batch_s(images) * 1e3 for images in range(1, 9)] == [10, 16, 24, 24, 48, 48, 48, 48]
    assert [padded.padded_size(images) for images in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("padded", [True, False])
def test_fewer_images_than_the_smallest_size_take_its_time(padded: bool) -> None:
    one = profile({4: 0.024, 8: 0.048}, padded=padded)
    assert [one.batch_s(images) for images in (1, 3, 4)] == [0.024] * 3


def test_a_size_that_was_measured_slower_than_a_larger_one_is_not_believed() -> None:
    noisy = profile({1: 0.010, 2: 0.050, 4: 0.024})
    assert [noisy.batch_s(images) for images in (1, 2, 3, 4)] == [0.010, 0.024, 0.024, 0.024]


def test_what_waits_is_drained_in_batches_of_the_best_size() -> None:
    one = profile()
    assert one.drain_s(0) == 0
    assert one.drain_s(3) == one.batch_s(3)
    assert one.drain_s(9) == pytest.approx(0.024 + 0.024 + 0.010)
    assert one.drain_s(400) == pytest.approx(100 * 0.024)


def test_several_lanes_share_the_batches_but_not_a_batch() -> None:
    three = profile(side_by_side=3)
    assert three.drain_s(4) == 0.024
    assert three.drain_s(8) == 0.024
    assert three.drain_s(24) == pytest.approx(2 * 0.024)


def test_predictions_follow_what_batches_take() -> None:
    one = profile()
    for _ in range(100):
        one.observe(4, 0.036, now_s=1.0)
    assert one.batch_s(1) == pytest.approx(0.015, rel=0.01)  # half as long again, at every size
    for _ in range(100):
        one.observe(2, 0.008, now_s=2.0)
    assert one.batch_s(8) == pytest.approx(0.024, rel=0.01)


def test_predictions_are_what_nearly_all_batches_keep() -> None:
    one = profile()
    times_s = [0.024 * (0.8 + 0.4 * (7 * turn % 10) / 9) for turn in range(1000)]  # 20 % more or less
    for seconds in times_s:
        one.observe(4, seconds, now_s=1.0)
    assert sum(seconds <= one.batch_s(4) for seconds in times_s) >= 900
    assert one.batch_s(4) < 1.4 * 0.024


def test_a_machine_that_stood_still_is_forgotten_within_a_few_batches() -> None:
    one = profile()
    one.observe(4, 60.0, now_s=1.0)
    assert one.batch_s(4) < 2 * 0.024
    for _ in range(20):
        one.observe(4, 0.024, now_s=2.0)
    assert one.batch_s(4) < 1.1 * 0.024


def test_a_device_that_got_ten_times_slower_is_known_within_ten_batches() -> None:
    one = profile()
    for _ in range(10):
        one.observe(4, 0.24, now_s=1.0)
    assert one.batch_s(4) > 0.2


def test_a_clock_that_stands_still_makes_nothing_free_of_charge() -> None:
    one = profile()
    for _ in range(10_000):
        one.observe(4, 0.0, now_s=1.0)
    assert one.batch_s(4) > 0.0001
    for _ in range(100):
        one.observe(4, 0.024, now_s=1.0)
    assert one.batch_s(4) == pytest.approx(0.024, rel=0.01)


def test_a_prediction_that_refuses_is_believed_the_less_the_longer_nothing_ran() -> None:
    one = profile()
    assert one.least_s(4, now_s=0.0) == 0.024
    assert one.least_s(4, now_s=10.0) == 0.012
    assert one.least_s(4, now_s=1e6) == 0
    one.observe(4, 0.024, now_s=1e6)
    assert one.least_s(4, now_s=1e6) == 0.024
