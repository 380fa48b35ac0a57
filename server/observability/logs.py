"""The log: one line per event of the server's life, as text or as JSON.

Logging never raises, waits for nothing and is bounded: of events that come too fast the first are written
(`RateLimit`), lines that cannot be are dropped (`sink`), and both are counted. Tracebacks hold no local
variables: those are the clients' pictures, megabytes of them. An event is written in one piece, end of line
included, since the engine and its front ends write to the same stream.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import ExcInfo, FilteringBoundLogger, Processor

from artifact.errors import printable
from server.observability.metrics import NAMESPACE
from server.observability.sink import REASONS, Drops, LineSink

_FLUSH_S = 2.0  # that the lines of an ending process may take to be written
_BURST, _PER_S = 100, 1.0  # of events of one name: that many at once, then so many a second
_MAX_NAMES = 256  # of events; ours are far fewer, those beyond share a bucket
_MAX_MESSAGE = 1000  # characters of an exception's message
_MAX_TRACEBACK = 8000  # characters of a traceback as text, its end
_MAX_ITEMS, _MAX_DEPTH = 200, 6  # of lists and mappings
_LONG = ("exception", "reason", "stack")  # keys of values that may be longer

_Event = MutableMapping[str, Any]


def make(
    form: Literal["text", "json"], stream: TextIO, clock: Callable[[], float] = time.monotonic
) -> FilteringBoundLogger:
    """Make a logger that writes to a stream.

    Args:
        clock: of the rates of events.
    """
    drops = Drops()
    processors: list[Processor] = [
        RateLimit(drops, clock),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        processors += [
            structlog.processors.ExceptionRenderer(tracebacks),
            _bounded,
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors += [
            _bounded,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_indented_traceback),
        ]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        LineSink(stream, drops), processors=processors, wrapper_class=_Logger
    )
    return logger


def flush(log: FilteringBoundLogger, timeout_s: float = _FLUSH_S) -> None:
    """Have what was logged written before the process ends; for no longer than that."""
    for name, suppressed in _sink_limit(log).left().items():
        log.warning("log_suppressed", name=name, suppressed=suppressed)
    cast("_Logger", log).sink.flush(timeout_s)


def descriptor(log: FilteringBoundLogger) -> int | None:
    """Return the descriptor that a logger writes to, for processes that write there, too; None for none."""
    return cast("_Logger", log).sink.fd


def watch_drops(log: FilteringBoundLogger, registry: CollectorRegistry) -> None:
    """Show in the metrics what a logger did not write."""
    registry.register(_DropsCollector(cast("_Logger", log).sink.drops))


@dataclass
class _Bucket:
    tokens: float
    filled_s: float
    suppressed: int = 0


class RateLimit:
    """Drops events that come too fast, by their names; the next one that is written has their number."""

    def __init__(self, drops: Drops, clock: Callable[[], float]) -> None:
        self._drops = drops
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def __call__(self, _logger: Any, _method: str, event: _Event) -> _Event:
        """Let an event pass, or raise `structlog.DropEvent`; a processor of structlog."""
        name = str(event.get("event", ""))
        with self._lock:
            if name not in self._buckets and len(self._buckets) >= _MAX_NAMES:
                name = ""
            now_s = self._clock()
            bucket = self._buckets.setdefault(name, _Bucket(_BURST, now_s))
            bucket.tokens = min(_BURST, bucket.tokens + (now_s - bucket.filled_s) * _PER_S)
            bucket.filled_s = now_s
            if bucket.tokens < 1:
                bucket.suppressed += 1
                self._drops.count("suppressed")
                raise structlog.DropEvent
            bucket.tokens -= 1
            if bucket.suppressed:
                event["suppressed"] = bucket.suppressed
                bucket.suppressed = 0
        return event

    def left(self) -> dict[str, int]:
        """Return the numbers of suppressed events that no line has yet, by name; each once."""
        with self._lock:
            left = {name: bucket.suppressed for name, bucket in self._buckets.items() if bucket.suppressed}
            for bucket in self._buckets.values():
                bucket.suppressed = 0
        return left


class _Logger(structlog.make_filtering_bound_logger("info")):  # type: ignore[misc] # made at run time
    """A logger that never raises."""

    @property
    def sink(self) -> LineSink:
        """Return where the lines go."""
        return cast("LineSink", self._logger)

    def _proxy_to_logger(self, method_name: str, event: str | None = None, **event_kw: Any) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, **event_kw)
        except Exception:  # noqa: BLE001 - what cannot be logged must not end what was logged
            self.sink.drops.count("failed")
            return None


class _DropsCollector(Collector):
    def __init__(self, drops: Drops) -> None:
        self._drops = drops

    def collect(self) -> Iterator[Metric]:
        dropped = CounterMetricFamily(
            f"{NAMESPACE}_log_events_dropped",
            "Events that were not written to the log.",
            labels=["reason"],
        )
        for reason in REASONS:
            dropped.add_metric([reason], self._drops[reason])
        yield dropped


def _sink_limit(log: FilteringBoundLogger) -> RateLimit:
    [limit] = [p for p in cast("_Logger", log)._processors if isinstance(p, RateLimit)]  # noqa: SLF001 - structlog's only way
    return limit


def _bounded(_logger: Any, _method: str, event: _Event) -> _Event:
    """Cut and escape what others wrote; names of events and keys are ours."""
    for key, value in event.items():
        event[key] = _safe(value, _MAX_MESSAGE if key in _LONG else None)
    return event


def _safe(value: Any, most: int | None, depth: int = 0) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], BaseException):
        return value  # what `exc_info` becomes; the renderer bounds it
    if isinstance(value, BaseException):
        return value
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {_safe(key, most, depth + 1): _safe(item, most, depth + 1) for key, item in items}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple)):
        return [_safe(item, most, depth + 1) for item in value[:_MAX_ITEMS]]
    text = value if isinstance(value, str) else repr(value)
    return printable(text) if most is None else printable(text, most)


def _indented_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback so that no line of it could be taken for an event."""
    text = "".join(traceback.format_exception(*exc_info)).rstrip("\n")[-_MAX_TRACEBACK:]
    stream.write("\n".join(f"    {printable(line, _MAX_MESSAGE)}" for line in text.splitlines()))
