"""Counts of many processes on one page: they add up, and never go down."""

import inspect

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from modelzoo.v1 import frontend_pb2
from server import errors
from server.errors import InvalidRequestError, ModelZooError, OverloadedError
from server.frontends import error_codec
from server.frontends.reports import Counters, InferStatistics, Reporter, SummedCollector


class Counting:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.asked = Counter("asked", "Asked.", ["model"], registry=self.registry)
        self.took = Histogram("took_seconds", "Took.", ["model"], buckets=(1, 2), registry=self.registry)
        self.level = Gauge("level", "Level.", registry=self.registry)
        self.reporter = Reporter(self.registry)

    def report(self) -> frontend_pb2.FrontendReport:
        return frontend_pb2.FrontendReport(samples=self.reporter.changes())


def page(own: Counting, *all_counters: Counters) -> str:
    def others():
        total = Counters()
        for counters in all_counters:
            total.add(counters)
        return total.counts

    registry = CollectorRegistry()
    registry.register(SummedCollector(own.registry, others))
    return generate_latest(registry).decode()


def test_counters_and_histograms_are_added_up_and_gauges_are_left_alone() -> None:
    own, other, past, counters = Counting(), Counting(), Counters(), Counters()
    own.asked.labels("a").inc(2)
    other.asked.labels("a").inc(3)
    other.asked.labels("b")
    other.took.labels("a").observe(1.5)
    own.level.set(7)
    other.level.set(9)
    counters.receive(other.report())
    text = page(own, past, counters)
    assert 'asked_total{model="a"} 5.0' in text
    assert 'asked_total{model="b"} 0.0' in text  # at zero, but there
    assert "level 7.0" in text
    buckets = [line for line in text.splitlines() if line.startswith("took_seconds_bucket")]
    assert buckets == [
        'took_seconds_bucket{le="1.0",model="a"} 0.0',
        'took_seconds_bucket{le="2.0",model="a"} 1.0',
        'took_seconds_bucket{le="+Inf",model="a"} 1.0',
    ]
    past.add(counters)  # it ended, and another came
    assert page(own, past, Counters()) == text


def test_only_what_changed_is_said_again() -> None:
    counting, counters = Counting(), Counters()
    counting.asked.labels("a").inc()
    counting.took.labels("a").observe(3)
    counters.receive(counting.report())
    assert counting.report() == frontend_pb2.FrontendReport()
    counting.asked.labels("a").inc()
    report = counting.report()
    assert [(sample.name, sample.value) for sample in report.samples] == [("asked_total", 2.0)]
    counters.receive(report)
    assert 'asked_total{model="a"} 2.0' in page(Counting(), counters)


def test_statistics_of_a_model_are_added_up_until_it_is_forgotten() -> None:
    total = Counters()
    for count in (1, 2):
        counters = Counters()
        statistics = InferStatistics()
        statistics.success.count, statistics.success.ns, statistics.queue.ns = count, 10 * count, 5
        sent = frontend_pb2.RequestStatistics(serial=4, statistics=statistics)
        counters.receive(frontend_pb2.FrontendReport(requests=[sent]))
        total.add(counters)
    assert (total.requests[4].success.count, total.requests[4].success.ns) == (3, 30)
    assert (total.requests[4].queue.count, total.requests[4].queue.ns) == (0, 10)
    total.forget(4)
    assert total.requests == {}


KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ModelZooError) and kind is not InvalidRequestError
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_after_its_way_between_processes(kind: type[ModelZooError]) -> None:
    error = kind("full", 1.25) if issubclass(kind, OverloadedError) else kind("why")
    again = error_codec.decode(error_codec.encode(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


def test_a_wrong_field_is_named_after_its_way_and_a_strangers_message_is_not_told() -> None:
    class OfItsOwnError(InvalidRequestError):
        pass

    again = error_codec.decode(error_codec.encode(OfItsOwnError("images[3]", "too large")))
    assert (type(again), again.field, again.reason) == (InvalidRequestError, "images[3]", "too large")
    again = error_codec.decode(error_codec.encode(ValueError("a secret")))
    assert (type(again), str(again)) == (ModelZooError, errors.UNEXPECTED)
