"""The log: one line per event of the server's life, as text for people or JSON for machines."""

import sys
from typing import Literal

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def make(form: Literal["text", "json"]) -> FilteringBoundLogger:
    """Make a logger that writes to standard error."""
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return logger
