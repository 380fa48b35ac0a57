"""The report's figures, worked out by hand."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from bench.comparison import first_requests, open_report, report
from bench.comparison.open_report import Opened
from bench.comparison.report import Latency, Round, Served
from bench.load.load import Report
from bench.measured.bare import Arrangement, Timing
from bench.measured.exposition import Work

BARE = Arrangement(2, 1, 8)


def load(per_s: int, latency_ms: float = 10, seconds: int = 4, **options: object) -> Report:
    """So many answers a second, evenly, each after the same time."""
    ended_s = (np.arange(per_s * seconds) + 0.5) / per_s
    latencies_s = np.full(len(ended_s), latency_ms / 1e3)
    usual = {"generator": "python", "images_per_request": 1, "measured_s": (0.0, float(seconds))}
    return Report(asked_s=ended_s - latencies_s, latencies_s=latencies_s, **(usual | options))


def one_round(bare_per_s: float, done: Report, **options: object) -> Round:
    usual = {"check": None, "cpu_s": 2.0, "work": Work(100, 400, Counter(OK=400), 0)}
    return Round(Timing(bare_per_s, np.full(5, 0.004)), Served(done, **(usual | options)))


def closed(*rounds: Round, one_at_a_time: bool = False) -> report.Closed:
    return report.closed(rounds, BARE, one_at_a_time=one_at_a_time)


def test_ratios_are_taken_round_by_round_and_their_median_is_reported() -> None:
    found = closed(one_round(200, load(100)), one_round(100, load(90)), one_round(100, load(95)))
    assert np.ravel(found.rounds) == pytest.approx([200, 100, 100, 90, 100, 95])
    assert found.ratio == pytest.approx(0.9)
    assert found.ratio_range == pytest.approx((0.5, 0.95))
    assert found.bare_images_per_s == 100
    assert found.served_images_per_s == pytest.approx(95)


def test_percentiles_are_of_all_rounds_together() -> None:
    found = closed(one_round(1, load(100, latency_ms=1)), one_round(1, load(200, latency_ms=5)))
    assert found.latency == Latency(0.005, 0.005, 0.005, 0.005)
    rounds = [one_round(1, load(10, latency_ms=milliseconds)) for milliseconds in (1, 2, 3, 4)]
    assert closed(*rounds).latency == Latency(0.002, 0.004, 0.004, 0.004)


def test_costs_are_divided_by_what_the_server_ran() -> None:
    rounds = [one_round(1, load(100, client_cpu_s=1.0)), one_round(1, load(100, client_cpu_s=3.0))]
    found = closed(*rounds)
    assert found.server_cpu_s_per_1000_images == pytest.approx(4 / 0.8)
    assert found.client_cpu_s_per_1000_images == pytest.approx(4 / 0.8)
    assert found.requests_per_server_cpu_s == pytest.approx(800 / 4)
    assert found.mean_batch == 4


def test_requests_of_several_images_are_several_images() -> None:
    found = closed(one_round(1, load(100, images_per_request=8), work=None))
    assert found.served_images_per_s == pytest.approx(800)
    assert found.server_cpu_s_per_1000_images == pytest.approx(2 / 3.2)
    assert found.requests_per_server_cpu_s == pytest.approx(200)
    assert found.requests == 400


def test_what_cannot_be_known_is_not_made_up() -> None:
    found = closed(one_round(1, load(100), cpu_s=None, work=None))
    assert found.server_cpu_s_per_1000_images is None
    assert found.requests_per_server_cpu_s is None
    assert found.mean_batch is None
    assert closed(one_round(1, load(100, mean_batch=3.0), work=None)).mean_batch == 3


def test_one_request_at_a_time_is_compared_with_one_run() -> None:
    found = closed(one_round(1, load(100, latency_ms=10)), one_at_a_time=True)
    assert found.bare_p50_s == 0.004
    assert found.added_p50_s == pytest.approx(0.006)
    assert closed(one_round(1, load(100))).added_p50_s is None


def test_every_request_without_a_right_answer_counts_as_failed() -> None:
    bad = {"wrong": 2, "refused": Counter(INTERNAL=3), "hung": 4}
    found = closed(one_round(1, load(100, **bad)), one_round(1, load(100, wrong=1)))
    assert (found.wrong, found.refused, found.hung, found.failed) == (3, {"INTERNAL": 3}, 4, 10)
    assert found.checked == 800 + 3


def test_a_generator_that_sees_no_status_leaves_refusals_to_the_server_and_answers_to_the_check() -> None:
    work = Work(10, 400, Counter(OK=390, RESOURCE_EXHAUSTED=7, CANCELLED=31), 0)
    check = load(50, wrong=1, refused=Counter(INTERNAL=2))
    found = closed(one_round(1, load(100, refused=Counter({"HTTP 503": 1})), check=check, work=work))
    assert found.refused == {"HTTP 503": 1, "RESOURCE_EXHAUSTED": 7, "INTERNAL": 2}
    assert (found.wrong, found.failed) == (1, 11)
    assert (found.requests, found.checked) == (393, 201)


def test_refusals_that_a_generator_takes_for_answers_are_no_throughput() -> None:
    asked = load(100, refused=Counter(), latency_ms=1)  # 400 in 4 s, all with HTTP 200
    for refused, images_per_s in ((0, 100), (100, 75), (400, 0)):
        work = Work(10, 400 - refused, Counter(OK=400 - refused, INVALID_ARGUMENT=refused), 0)
        found = closed(one_round(50, asked, check=load(0), work=work))
        assert found.requests == 400 - refused
        assert found.served_images_per_s == pytest.approx(images_per_s)
        assert found.ratio == pytest.approx(images_per_s / 50)
        assert found.failed == refused
        # A refusal is quick; among the answers it would make them look so.
        assert (found.latency.p50_s is None) == bool(refused)


def test_what_the_server_said_first_is_kept_by_status() -> None:
    first = load(0, refused=Counter(INTERNAL=1), messages={"INTERNAL": "broken"})
    second = load(
        0, refused=Counter(INTERNAL=2, NOT_FOUND=9), messages={"INTERNAL": "x", "NOT_FOUND": "no net"}
    )
    found = closed(one_round(1, first), one_round(1, second))
    assert found.messages == {"INTERNAL": "broken", "NOT_FOUND": "no net"}
    assert report.refusals(found.refused, found.messages) == "9 NOT_FOUND (no net), 3 INTERNAL (broken)"
    assert report.refusals({"failed": 2}, {}) == "2 failed"


def test_nothing_answered_is_a_report_too() -> None:
    nothing = load(0, refused=Counter(NOT_FOUND=5))
    found = closed(one_round(100, nothing, work=Work(0, 0, Counter(), 0)), one_at_a_time=True)
    assert found.latency == Latency(None, None, None, None)
    assert (found.ratio, found.failed, found.added_p50_s) == (0, 5, None)
    assert (found.mean_batch, found.server_cpu_s_per_1000_images) == (None, None)


def opened(done: Report, **options: object) -> Opened:
    usual = {
        "capacity_per_s": 200.0,
        "rate_per_s": 140.0,
        "seconds": 4.0,
        "ideal_latencies_s": np.full(560, 0.008),
        "unfinished_calls": 0,
        "memory_bytes": (1000, 1100),
    }
    return Opened(served=one_round(1, done).served, **(usual | options))


@pytest.mark.parametrize(("answered_per_s", "failed"), [(100, 0), (15, 0), (13, 508), (0, 560)])
def test_a_deadline_allows_to_shed_load_but_not_to_refuse_nearly_all_of_it(
    answered_per_s: int, failed: int
) -> None:
    refused = Counter(DEADLINE_EXCEEDED=560 - 4 * answered_per_s)
    found = open_report.opened([opened(load(answered_per_s, refused=refused))], deadline=True)
    assert found.failed == failed
    assert found.answered_per_s == answered_per_s


def test_an_open_loop_is_held_against_capacity_and_the_ideal() -> None:
    loops = [opened(load(100)), opened(load(120), memory_bytes=(1100, 1050))]
    found = open_report.opened(loops, deadline=False)
    assert found.answered_per_s == pytest.approx(110)
    assert found.goodput == pytest.approx(0.55)
    assert found.ideal == Latency(0.008, 0.008, 0.008, 0.008)
    assert found.p99_to_ideal == pytest.approx(1.25)
    assert found.memory_bytes == (1000, 1050)
    assert found.server_cpu_s == 4


@pytest.mark.parametrize(("deadline", "failed"), [(True, 6), (False, 56)])
def test_only_a_deadline_allows_to_refuse(deadline: bool, failed: int) -> None:
    refused = Counter(DEADLINE_EXCEEDED=20, RESOURCE_EXHAUSTED=30, INTERNAL=1)
    done = load(100, refused=refused, wrong=2, hung=1)
    found = open_report.opened(
        [opened(done, unfinished_calls=2, ideal_latencies_s=None, memory_bytes=None)], deadline=deadline
    )
    assert (found.failed, found.hung, found.refused) == (failed, 3, dict(refused))
    assert (found.ideal, found.p99_to_ideal, found.memory_bytes) == (None, None, None)


def test_the_first_requests_of_each_start_are_those_that_were_asked_first() -> None:
    slow_first = [50.0] * 10 + [10.0] * 10

    def start(order: Callable[[int], np.ndarray]) -> Report:
        shuffled = order(20)  # answers come as they come
        asked_s, latencies_s = np.arange(20.0)[shuffled], np.array(slow_first)[shuffled] / 1e3
        return Report("python", asked_s, latencies_s, 1, (0.0, 100.0), wrong=1)

    found = first_requests.summary([start(np.arange), start(np.random.default_rng(0).permutation)], first=10)
    assert (found.starts, found.requests_each, found.failed) == (2, 10, 2)
    assert found.first == Latency(0.05, 0.05, 0.05, 0.05)
    assert found.steady == Latency(0.01, 0.01, 0.01, 0.01)
    assert found.p99_to_steady == pytest.approx(5)
