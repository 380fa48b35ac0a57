"""Arrivals of an open loop: repeatable, and as random as they should be."""

import numpy as np
import pytest

from bench.load.open_loop import poisson


def test_the_same_seed_gives_the_same_arrivals_and_another_gives_others() -> None:
    first, again, other = (poisson(50, 10, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_arrivals_are_ascending_and_within_their_time() -> None:
    arrivals_s = poisson(1000, 3, seed=0)
    assert (np.diff(arrivals_s) >= 0).all()
    assert 0 <= arrivals_s[0] <= arrivals_s[-1] < 3


def test_gaps_are_those_of_a_poisson_process() -> None:
    gaps_s = np.diff(poisson(200, 500, seed=3))
    assert gaps_s.mean() == pytest.approx(1 / 200, rel=0.02)
    assert gaps_s.std() == pytest.approx(1 / 200, rel=0.02)  # exponential: as much as the mean
    assert (gaps_s > 3 / 200).mean() == pytest.approx(np.exp(-3), rel=0.1)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_nothing_arrives_without_a_rate_or_time(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="nothing arrives"):
        poisson(rate, seconds, seed=0)
