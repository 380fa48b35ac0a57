"""What front ends count, on its way to the one metrics port.

A front end says what has changed since its last report (`Reporter`). The engine keeps the last word of
each, adds those that ended to what is past (`Counters`), and shows the sum of all (`SummedCollector`): no
counter ever goes down.
"""

import asyncio
import concurrent.futures
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from modelzoo.v1 import frontend_pb2, open_inference_pb2
from server.observability.metrics import UNKNOWN_MODEL

_SUMMABLE = ("counter", "histogram")

# The series of one metric: their names and labels, and what each has counted.
Series = dict[tuple[str, tuple[str, ...]], float]
# The same of all metrics, by name.
Counts = dict[str, Series]
InferStatistics = open_inference_pb2.InferStatistics


class Reporter:
    """Finds out what has changed in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._reported: Counts = defaultdict(dict)

    def changes(self) -> list[frontend_pb2.MetricSample]:
        """Return the counters and histograms that are new or have changed since the last time."""
        changed = []
        for family, series in _counts(self._registry.collect()).items():
            reported = self._reported[family]
            changed += [
                frontend_pb2.MetricSample(family=family, name=name, labels=labels, value=value)
                for (name, labels), value in series.items()
                if reported.get((name, labels)) != value
            ]
            reported.update(series)
        return changed


class Counters:
    """What front ends have counted: one of them, or those that ended."""

    def __init__(self) -> None:
        self.counts: Counts = defaultdict(dict)
        self.requests: dict[int, InferStatistics] = {}  # by the serial of the model

    def receive(self, report: frontend_pb2.FrontendReport) -> None:
        """Take the last word of a front end."""
        for sample in report.samples:
            self.counts[sample.family][sample.name, tuple(sample.labels)] = sample.value
        for model in report.requests:
            self.requests[model.serial] = model.statistics

    def add(self, other: "Counters") -> None:
        """Add what another has counted, too."""
        for family, series in other.counts.items():
            mine = self.counts[family]
            for key, value in series.items():
                mine[key] = mine.get(key, 0.0) + value
        for serial, statistics in other.requests.items():
            add_statistics(self.requests.setdefault(serial, InferStatistics()), statistics)

    def keep_models(self, names: Collection[str]) -> None:
        """Drop the series of models that are gone: those with a ``model`` label that is none of these."""
        for series in self.counts.values():
            for key in [key for key in series if _model(key[1]) not in (None, UNKNOWN_MODEL, *names)]:
                del series[key]

    def forget(self, serial: int) -> None:
        """Drop the statistics of a model that is gone."""
        self.requests.pop(serial, None)


class FrontendCounts:
    """What front ends count, asked for on the event loop by the thread of a scrape.

    While the loop does not answer, its last answer stands, so that a scrape shows what there is. Lives on
    one thread.

    Args:
        counts: asks the front ends; runs on the loop.
        patience_s: with the loop.
    """

    def __init__(
        self,
        counts: Callable[[], Coroutine[Any, Any, Mapping[str, Series]]],
        loop: asyncio.AbstractEventLoop,
        patience_s: float,
    ) -> None:
        self._counts = counts
        self._loop = loop
        self._patience_s = patience_s
        self._pending: concurrent.futures.Future[Mapping[str, Series]] | None = None
        self._known: Mapping[str, Series] = {}

    def __call__(self) -> Mapping[str, Series]:
        """Ask, unless the last one is still waited for; wait; give what is known."""
        if self._pending is None or self._pending.done():
            self._pending = asyncio.run_coroutine_threadsafe(self._counts(), self._loop)
        with suppress(TimeoutError):
            self._known = self._pending.result(self._patience_s)
        return self._known


class SummedCollector(Collector):
    """The metrics of this process, with those of others added.

    Args:
        own: of this process.
        others: gives those of the others, at every scrape.
    """

    def __init__(self, own: CollectorRegistry, others: Callable[[], Mapping[str, Series]]) -> None:
        self._own = own
        self._others = others

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, for the registry, which refuses a name twice."""
        return self._own.collect()

    def collect(self) -> Iterator[Metric]:
        """Ask the others and add up."""
        others = self._others()
        for family in self._own.collect():
            yield _added(family, others.get(family.name, {}))


def summed(own: CollectorRegistry, others: Callable[[], Mapping[str, Series]]) -> CollectorRegistry:
    """Make a registry that shows the metrics of this process with those of others added; read on threads."""
    registry = CollectorRegistry()
    registry.register(SummedCollector(own, others))
    return registry


def _model(labels: Sequence[str]) -> str | None:
    return dict(zip(labels[::2], labels[1::2], strict=True)).get("model")


def add_statistics(total: InferStatistics, more: InferStatistics) -> None:
    """Add counts and times."""
    for field, duration in more.ListFields():
        of_total = getattr(total, field.name)
        of_total.count += duration.count
        of_total.ns += duration.ns


def _counts(families: Iterable[Metric]) -> Counts:
    return {
        family.name: {(sample.name, _flat(sample.labels)): sample.value for sample in family.samples}
        for family in families
        if family.type in _SUMMABLE
    }


def _added(family: Metric, more: Series) -> Metric:
    """Add to the series that are here, and append those that are not, in their order."""
    left = dict(more)
    added = Metric(family.name, family.documentation, family.type)
    for sample in family.samples:
        value = sample.value + left.pop((sample.name, _flat(sample.labels)), 0.0)
        added.add_sample(sample.name, sample.labels, value)
    for (name, labels), value in left.items():
        added.add_sample(name, dict(zip(labels[::2], labels[1::2], strict=True)), value)
    return added


def _flat(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for label in labels.items() for word in label)
