"""What the engine counts of its front ends; a server without any has these at zero."""

from prometheus_client import CollectorRegistry, Counter, Gauge

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
