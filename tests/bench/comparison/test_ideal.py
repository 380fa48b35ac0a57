"""The ideal server against what can be worked out by hand, and what holds for any server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.comparison import ideal

# One image takes 10 ms, two 12, four 20: most images per second at four.
CURVE_S = {1: 0.010, 2: 0.012, 4: 0.020}


def latencies_ms(arrivals_ms: list[float], images: int = 1, lanes: int = 1) -> list[float]:
    arrivals_s = np.array(arrivals_ms) / 1e3
    return (ideal.latencies_s(arrivals_s, images, CURVE_S, lanes) * 1e3).tolist()


@pytest.mark.parametrize(
    ("arrivals_ms", "expected_ms"),
    [
        ([], []),
        ([5], [10]),
        ([0, 100], [10, 10]),  # nobody waits
        ([0, 1, 2], [10, 21, 20]),  # two wait for the first, and go together
        ([0, 10], [10, 10]),  # free at the very moment
        ([0, 1, 2, 3], [10, 25, 24, 23]),  # three: 16 ms, between those of two and of four
        ([0, 1, 1, 1, 1, 1], [10, 29, 29, 29, 29, 39]),  # five: four of them, and then one
    ],
)
def test_one_lane_takes_what_waits_when_it_is_free(
    arrivals_ms: list[float], expected_ms: list[float]
) -> None:
    assert latencies_ms(arrivals_ms) == pytest.approx(expected_ms)


def test_two_lanes_run_two_batches_at_a_time() -> None:
    # The third waits until 10 ms for the first lane; the fourth goes with it.
    assert latencies_ms([0, 1, 2, 3], lanes=2) == pytest.approx([10, 10, 20, 19])


def test_a_request_is_answered_when_its_last_image_is() -> None:
    # Six images arrive: four run until 20 ms, two until 32.
    assert latencies_ms([0, 0], images=3) == pytest.approx([20, 32])


def test_a_size_that_is_slower_per_image_is_not_taken() -> None:
    curve_s = {1: 0.001, 2: 0.0015, 4: 0.1}
    found_s = ideal.latencies_s(np.zeros(4), 1, curve_s, lanes=1)
    assert found_s.tolist() == pytest.approx([0.0015, 0.0015, 0.003, 0.003])


curves = st.lists(st.floats(1e-4, 0.1), min_size=6, max_size=6).map(
    lambda steps: dict(zip((1, 2, 4, 8, 16, 32), np.cumsum(steps).tolist(), strict=True))
)


@given(
    gaps_s=st.lists(st.floats(0, 0.2), min_size=1, max_size=60),
    curve_s=curves,
    images=st.integers(1, 5),
    lanes=st.integers(1, 3),
)
def test_it_is_never_faster_than_the_curve_and_keeps_the_order(
    gaps_s: list[float], curve_s: dict[int, float], images: int, lanes: int
) -> None:
    arrivals_s = np.cumsum(gaps_s)
    found_s = ideal.latencies_s(arrivals_s, images, curve_s, lanes)
    assert found_s.shape == arrivals_s.shape
    assert (found_s >= curve_s[1] - 1e-12).all()
    ended_s = arrivals_s + found_s
    if lanes == 1:
        assert (np.diff(ended_s) >= -1e-9).all()
    # All lanes together are never faster than the best size of batch.
    best_per_s = max(size / seconds for size, seconds in curve_s.items())
    busy_s = ended_s.max() - arrivals_s[0]
    assert len(gaps_s) * images <= lanes * best_per_s * busy_s * (1 + 1e-9)


@pytest.mark.parametrize(("curve_s", "lanes"), [({}, 1), ({2: 0.1}, 1), ({1: 0.1}, 0)])
def test_a_server_that_cannot_answer_is_refused(curve_s: dict[int, float], lanes: int) -> None:
    with pytest.raises(ValueError, match="answer nothing"):
        ideal.latencies_s(np.zeros(1), 1, curve_s, lanes)
