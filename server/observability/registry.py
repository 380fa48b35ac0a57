"""The registries that the metrics of a process live in."""

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)


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
