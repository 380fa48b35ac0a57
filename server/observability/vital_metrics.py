"""What a process counts of its vital parts: their ends, and what is out of order now."""

from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from server.observability.metrics import NAMESPACE

# All vital tasks: each has its series from the start, at zero.
TASKS = (
    "accept_loop",
    "connection",
    "event_loop",
    "frontend",
    "guard",
    "lane",
    "loader",
    "metrics_port",
    "report",
    "supervisor",
    "watchdog",
)


class RunningBatch(Protocol):
    """A batch that runs."""

    @property
    def model(self) -> str:
        """Name its model."""

    @property
    def ends_s(self) -> float:
        """Predict when it ends."""

    @property
    def clock(self) -> Callable[[], float]:
        """Return the clock of its times."""

    @property
    def started_s(self) -> float:
        """Return when it started; not a number before."""

    @property
    def images(self) -> int:
        """Count its images."""


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

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, namespace=NAMESPACE, registry=registry)

        self._faults = gauge(
            "faults", "Vital parts that are out of order now; health is NOT_SERVING unless it is 0."
        )
        self._running_images = gauge("running_images", "Images in batches that run now.")
        self._oldest_batch = gauge("oldest_batch_seconds", "Time that the oldest batch has been running.")

    def watch(
        self, faults: Callable[[], int], running: Callable[[], Sequence[tuple[int, RunningBatch]]]
    ) -> None:
        """Read what is out of order, and what runs, at every scrape.

        Args:
            faults: counts them.
            running: gives the batches under way, each with the ident of its thread.
        """

        def oldest_s() -> float:
            ages_s = [batch.clock() - batch.started_s for _, batch in running()]
            return max((age_s for age_s in ages_s if age_s > 0), default=0.0)

        self._faults.set_function(lambda: float(faults()))
        self._running_images.set_function(lambda: float(sum(batch.images for _, batch in running())))
        self._oldest_batch.set_function(oldest_s)
