"""A load asks what it was told to, and its report counts right."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.load import Load, Report, percentile_s
from bench.load.protocols import Classify
from modelzoo.v1 import classifier_pb2


def report(ended_s: np.ndarray, measured_s: tuple[float, float], images_per_request: int = 1) -> Report:
    """Requests that were answered within a millisecond."""
    latencies_s = np.full(len(ended_s), 1e-3)
    return Report("test", np.asarray(ended_s) - latencies_s, latencies_s, images_per_request, measured_s)


@pytest.mark.parametrize(
    ("percent", "latency_s"),
    [(0, 0.15), (5, 0.15), (20, 0.15), (20.1, 0.20), (30, 0.20), (40, 0.20), (50, 0.35), (100, 0.50)],
)
def test_percentiles_are_nearest_ranks(percent: float, latency_s: float) -> None:
    # Ranks are ceil(percent / 100 * 5).
    assert percentile_s(np.array([0.35, 0.15, 0.50, 0.20, 0.40]), percent) == latency_s


@pytest.mark.parametrize(("percent", "rank"), [(50, 500), (90, 900), (99, 990), (99.9, 999), (99.95, 1000)])
def test_percentiles_of_a_thousand_are_exact(percent: float, rank: int) -> None:
    assert percentile_s(np.arange(1000.0, 0, -1), percent) == rank


def test_nothing_answered_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no request was answered"):
        percentile_s(np.zeros(0), 50)


@given(
    batch=st.integers(1, 32),
    cycle_s=st.floats(0.05, 0.5),
    shift=st.floats(0, 1),
    images_per_request=st.integers(1, 4),
)
def test_the_speed_of_a_steady_server_does_not_depend_on_where_the_window_cuts_its_batches(
    batch: int, cycle_s: float, shift: float, images_per_request: int
) -> None:
    ends_s = (np.arange(12 / cycle_s) + shift) * cycle_s
    ended_s = np.sort(np.concatenate([ends_s + seat * 1e-6 for seat in range(batch)]))
    found = report(ended_s, (1.0, 11.0), images_per_request).images_per_s()
    assert found == pytest.approx(images_per_request * batch / cycle_s, rel=1e-3)


def test_the_speed_of_random_answers_is_their_number_over_their_time() -> None:
    ended_s = np.sort(np.random.default_rng(0).uniform(0, 20, 40_000))
    assert report(ended_s, (0.0, 20.0)).images_per_s() == pytest.approx(2000, rel=0.02)


@pytest.mark.parametrize("count", range(9))
def test_few_answers_have_a_speed_too(count: int) -> None:
    speed = report(np.linspace(0.5, 1.5, count), (0.0, 2.0)).images_per_s()
    assert speed == pytest.approx(count / 2, rel=1)
    assert (speed > 0) == (count > 0)


def test_what_came_before_or_after_the_measured_time_counts_as_answered_only() -> None:
    done = report(np.array([0.5, 1.0, 1.5, 2.0, 2.5]), (1.0, 2.0))
    assert done.answered == 5
    assert len(done.measured_latencies_s) == 3


def test_errors_are_wrong_answers_refusals_and_silence() -> None:
    done = Report("test", np.zeros(2), np.ones(2), 1, (0.0, 1.0), 3, Counter(UNAVAILABLE=4, INTERNAL=1), 5)
    assert done.errors == 13


def test_requests_begin_at_every_picture_in_turn(make_load) -> None:
    load: Load = make_load(images_per_request=3)
    requests = [classifier_pb2.ClassifyRequest.FromString(body) for body in load.bodies()]
    assert len(requests) == len(load.answers()) == 16
    for turn, (request, labels) in enumerate(zip(requests, load.answers(), strict=True)):
        chosen = [(turn + seat) % 16 for seat in range(3)]
        assert [image.pixels.data for image in request.images] == [
            load.pictures[index].tobytes() for index in chosen
        ]
        assert labels == [load.labels[index] for index in chosen]


@pytest.mark.parametrize(
    "options",
    [{"outstanding": 0}, {"images_per_request": 0}, {"connections": 0}, {"pictures": [], "labels": []}],
    ids=lambda options: next(iter(options)),
)
def test_a_load_of_nothing_is_refused(make_load, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ask nothing"):
        make_load(**options)


def test_every_picture_needs_its_labels() -> None:
    with pytest.raises(ValueError, match="1 sets of labels for 2 pictures"):
        Load(Classify("net"), [b"a", b"b"], [{0}])
