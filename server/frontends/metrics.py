"""What the engine counts of its front ends, and what their processes take; at zero where there is none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.observability.metrics import NAMESPACE


class FrontendMetrics:
    """The metrics, declared once.

    Attributes:
        alive: processes that listen.
        restarts: processes that took the place of another.
        missed: reports that did not come within the time that a scrape has.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.alive = Gauge(
            "frontends",
            "Front ends that listen; 0 where the engine does so itself.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.restarts = Counter(
            "frontend_restarts",
            "Front ends that took the place of one that had ended.",
            namespace=NAMESPACE,
            registry=registry,
        )
        self.missed = Counter(
            "frontend_reports_missed",
            "Times that a front end did not say in time what it had counted; its last word stood for it.",
            namespace=NAMESPACE,
            registry=registry,
        )


class FrontendProcessCollector(Collector):
    """Reads what the processes take.

    Args:
        pids: gives the process of each front end that lives, by its number.
    """

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids
        self._last_s: dict[int, tuple[int, float]] = {}  # by number: a process, and what it had used
        self._past_s: dict[int, float] = {}  # what those before it had used, as far as was seen

    def collect(self) -> Iterator[Metric]:
        """Read what each takes; processor time goes on where a process is replaced."""
        cpu = CounterMetricFamily(
            f"{NAMESPACE}_frontend_cpu_seconds", "Processor time of a front end.", labels=["frontend"]
        )
        memory = GaugeMetricFamily(
            f"{NAMESPACE}_frontend_resident_memory_bytes",
            "Resident memory of a front end, what it shares with the engine included.",
            labels=["frontend"],
        )
        import psutil  # where there are no front ends, nothing else needs it

        for number, pid in self._pids().items():
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                process = psutil.Process(pid)
                times = process.cpu_times()
                cpu.add_metric([str(number)], self._in_all(number, pid, times.user + times.system))
                memory.add_metric([str(number)], process.memory_info().rss)
        yield cpu
        yield memory

    def _in_all(self, number: int, pid: int, used_s: float) -> float:
        before, last_s = self._last_s.get(number, (pid, 0.0))
        if before != pid:
            self._past_s[number] = self._past_s.get(number, 0.0) + last_s
        self._last_s[number] = (pid, used_s)
        return self._past_s.get(number, 0.0) + used_s
