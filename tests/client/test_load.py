"""A load asks what it was told to, loses nothing, and its report counts right."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from artifact import golden
from artifact.golden import Golden
from client import ClientError
from client.load import Load, Report, closed_loop

NAME = "simple_cnn-digits"


@pytest.fixture(scope="session")
def digits(repository: Path) -> Golden:
    return golden.read(repository / NAME / "1" / "golden.npz")


def report(latencies_s: list[float]) -> Report:
    return Report(latencies_s, answers=[], batch_sizes=[], errors=[], duration_s=1.0)


@pytest.mark.parametrize(
    ("percent", "latency_s"),
    [(0, 0.15), (5, 0.15), (20, 0.15), (20.1, 0.20), (30, 0.20), (40, 0.20), (50, 0.35), (100, 0.50)],
)
def test_percentiles_are_nearest_ranks(percent: float, latency_s: float) -> None:
    # Ranks are ceil(percent / 100 * 5).
    assert report([0.15, 0.20, 0.35, 0.40, 0.50]).percentile_s(percent) == latency_s


@pytest.mark.parametrize(("percent", "rank"), [(50, 500), (90, 900), (99, 990), (99.9, 999), (99.95, 1000)])
def test_percentiles_of_a_thousand_are_exact(percent: float, rank: int) -> None:
    assert report([float(number) for number in range(1, 1001)]).percentile_s(percent) == rank


def test_every_percentile_of_one_latency_is_it() -> None:
    assert {report([0.25]).percentile_s(percent) for percent in (0, 1, 50, 99, 100)} == {0.25}


def test_nothing_answered_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no request was answered"):
        report([]).percentile_s(50)


def test_every_picture_is_asked_as_often_as_it_should_and_answered_rightly(server, digits: Golden) -> None:
    pictures = list(digits.images[:7])
    done = closed_loop(Load(NAME, pictures, clients=3, requests=5, images_per_request=4), server.address)
    assert done.errors == []
    assert len(done.latencies_s) == len(done.batch_sizes) == 15
    assert done.latencies_s == sorted(done.latencies_s)
    assert all(0 < latency_s <= done.duration_s for latency_s in done.latencies_s)
    assert all(batch_size >= 4 for batch_size in done.batch_sizes)
    # Sixty images, numbered through the clients, of seven pictures that come in turn.
    assert Counter(index for index, _ in done.answers) == Counter(number % 7 for number in range(60))
    best = digits.probabilities.argmax(axis=1)
    assert [label for _, label in done.answers] == [best[index] for index, _ in done.answers]


def test_refused_requests_are_counted_as_errors_and_the_others_answered(server, digits: Golden) -> None:
    pictures = [digits.images[0], b"no picture", digits.images[1], digits.images[2]]
    done = closed_loop(Load(NAME, pictures, clients=2, requests=8), server.address)
    assert len(done.errors) == 4
    assert set(done.errors) == {"images[0]: neither a JPEG nor a PNG file"}
    assert Counter(index for index, _ in done.answers) == {0: 4, 2: 4, 3: 4}
    assert len(done.latencies_s) == len(done.batch_sizes) == 12


def test_a_load_on_an_unknown_model_is_refused_at_the_start(server, digits: Golden) -> None:
    with pytest.raises(ClientError, match="nobody"):
        closed_loop(Load("nobody", list(digits.images), clients=2, requests=1), server.address)


def test_a_picture_that_is_none_ends_the_load_and_is_not_lost(server) -> None:
    with pytest.raises(TypeError, match="float64"):
        closed_loop(Load(NAME, [np.zeros((8, 8, 1))], clients=2, requests=1), server.address)


@pytest.mark.parametrize(("clients", "count"), [(0, 1), (1, 0)])
def test_a_load_of_nothing_is_refused(server, digits: Golden, clients: int, count: int) -> None:
    with pytest.raises(ValueError, match="ask nothing"):
        closed_loop(Load(NAME, list(digits.images[:count]), clients, requests=1), server.address)
