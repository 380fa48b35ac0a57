"""Figures that others give, a driver say: where they fail or hang, a scrape shows the rest."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

_PATIENCE_S = 0.5  # a driver takes microseconds; a scrape as a whole has 3 s


class Guarded(Collector):
    """A collector that may raise or hang.

    Its series are absent from the scrapes that they are not there for; the first of them in a row is logged.
    """

    def __init__(
        self, collector: Collector, log: FilteringBoundLogger, patience_s: float = _PATIENCE_S
    ) -> None:
        self._collector = collector
        self._log = log
        self._patience_s = patience_s
        self._thread = ThreadPoolExecutor(1, "collector")  # started with the first scrape
        self._asked: Future[list[Metric]] | None = None
        self._fails = False

    def collect(self) -> Iterator[Metric]:
        """Collect, unless the last question is still open; give what came in time."""
        if self._asked is None or self._asked.done():
            self._asked = self._thread.submit(lambda: list(self._collector.collect()))
        try:
            families = self._asked.result(self._patience_s)
        except Exception as error:  # noqa: BLE001 - a library's, of any kind
            if not self._fails:
                late = f"no answer within {self._patience_s:g} s"
                cause = late if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
                self._log.error("collector_failed", collector=type(self._collector).__name__, error=cause)
            self._fails = True
            return
        self._fails = False
        yield from families
