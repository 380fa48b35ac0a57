"""What the event loop counts by itself reads as the library's own counters and histograms do."""

import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from server.observability.registry import LoopCounters, LoopHistograms, empty_registry

BOUNDS = (0.001, 0.25, 1.0, 16.0)
LABELS = ["model", "stage"]


def both() -> tuple[CollectorRegistry, CollectorRegistry, tuple[object, object], tuple[object, object]]:
    ours, theirs = empty_registry(), empty_registry()
    counters = (
        LoopCounters("a_b_total", "B.", LABELS, ours),
        Counter("a_b_total", "B.", LABELS, registry=theirs),
    )
    histograms = (
        LoopHistograms("c_seconds", "C.", LABELS, ours, BOUNDS),
        Histogram("c_seconds", "C.", LABELS, registry=theirs, buckets=BOUNDS),
    )
    return ours, theirs, counters, histograms


def test_series_read_as_the_librarys_do() -> None:
    ours, theirs, counters, histograms = both()
    assert generate_latest(ours) == generate_latest(theirs)
    random.seed(0)
    values = [*BOUNDS, 0.0, -1.0, 17.0, 1e9, *(random.expovariate(2) for _ in range(100))]
    for at, value in enumerate(values):
        labels = (f"m{at % 3}", "queue")
        for counter, histogram in zip(counters, histograms, strict=True):
            counter.labels(*labels).inc()
            counter.labels(*labels).inc(at)
            histogram.labels(*labels).observe(value)
    assert generate_latest(ours) == generate_latest(theirs)
    for family in (*counters, *histograms):
        family.remove_by_labels({"model": "m1"})
        family.labels("m3", 'a "quoted" stage')
    assert generate_latest(ours) == generate_latest(theirs)


def test_a_name_is_taken_once() -> None:
    ours, _, _, _ = both()
    with pytest.raises(ValueError, match="Duplicated"):
        LoopCounters("a_b_total", "B.", LABELS, ours)
