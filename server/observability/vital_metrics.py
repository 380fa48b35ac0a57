"""What a process counts of its vital parts: their ends, and what is out of order now."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from server.metrics import NAMESPACE

# All vital tasks: each has its series from the start, at zero.
TASKS = (
    "accept_loop",
    "connection",
    "event_loop",
    "frontend",
    "lane",
    "loader",
    "metrics_port",
    "supervisor",
    "watchdog",
)


class VitalMetrics:
    """Metrics of the vital parts of one process; a front end's are added to the engine's.

    Attributes:
        failures: unexpected ends, and hangs, of vital tasks, by task.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "vital_task_failures",
            "Unexpected ends and hangs of a task that the server cannot do without.",
            ["task"],
            namespace=NAMESPACE,
            registry=registry,
        )
        for task in TASKS:
            self.failures.labels(task)
        self._faults = Gauge(
            "faults",
            "Vital parts that are out of order now; health says NOT_SERVING unless it is 0.",
            namespace=NAMESPACE,
            registry=registry,
        )

    def watch_faults(self, count: Callable[[], int]) -> None:
        """Read the number of faults at every scrape."""
        self._faults.set_function(lambda: float(count()))
