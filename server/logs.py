"""The log: one line per event of the server's life, as text for people or JSON for machines."""

from typing import Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def make(form: Literal["text", "json"], stream: TextIO) -> FilteringBoundLogger:
    """Make a logger that writes to a stream."""
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=stream.isatty()))
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return logger
