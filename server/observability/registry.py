"""The registries that the metrics of a process live in, and what the event loop counts by itself."""

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


def empty_registry() -> CollectorRegistry:
    """Make a registry without a `_created` series beside every counter and histogram."""
    disable_created_metrics()  # type: ignore[no-untyped-call] # they would double the series, for no query
    return CollectorRegistry()


def process_registry() -> CollectorRegistry:
    """Make a registry that has the figures of this process and its interpreter."""
    registry = empty_registry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class LoopCounter:
    """A counter that the event loop alone increments: it needs no lock, so it costs little."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Count so many more."""
        self.value += amount


class LoopHistogram:
    """The same for a histogram.

    Args:
        bounds: upper ones, in order, without infinity.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return how many values were not above each bound, and the sum of all."""
        bounds = (*self._bounds, math.inf)
        return list(zip(map(floatToGoString, bounds), accumulate(self._counts), strict=True)), self._sum


Child = TypeVar("Child")


class LoopFamily(Collector, Generic[Child]):
    """Series of one name, by their labels; any thread may collect them."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        make: Callable[[], Child],
        registry: CollectorRegistry,
    ) -> None:
        self.name, self.text, self.label_names = name, text, labels
        self._make = make
        self.children: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """Return the series of these labels; it is there from now on."""
        child = self.children.get(values)
        return self.children.setdefault(values, self._make()) if child is None else child

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """Drop the series that have these labels."""
        wanted = {(self.label_names.index(name), value) for name, value in labels.items()}
        for values in list(self.children):
            if wanted <= set(enumerate(values)):
                del self.children[values]

    def describe(self) -> list[Metric]:
        """Return the family without its series."""
        return [self._family([])]

    def collect(self) -> list[Metric]:
        """Return the family."""
        return [self._family(list(self.children.items()))]

    @abstractmethod
    def _family(self, series: list[tuple[tuple[str, ...], Child]]) -> Metric:
        """Make the family of some series."""


class LoopCounters(LoopFamily[LoopCounter]):
    """Counters of one name, which ends with ``_total``."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        super().__init__(name, text, labels, LoopCounter, registry)

    def _family(self, series: list[tuple[tuple[str, ...], LoopCounter]]) -> Metric:
        family = CounterMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, counter in series:
            family.add_metric(labels, counter.value)
        return family


class LoopHistograms(LoopFamily[LoopHistogram]):
    """Histograms of one name.

    Args:
        bounds: of the buckets, but for the last.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        bounds: Sequence[float],
    ) -> None:
        super().__init__(name, text, labels, lambda: LoopHistogram(bounds), registry)

    def _family(self, series: list[tuple[tuple[str, ...], LoopHistogram]]) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, histogram in series:
            buckets, total = histogram.read()
            family.add_metric(labels, buckets, total)
        return family
