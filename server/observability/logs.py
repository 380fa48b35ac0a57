"""The log: one line per event of the server's life, as text for people or JSON for machines.

Tracebacks hold no local variables: those are the clients' pictures, megabytes of them. An event is
written in one piece, end of line included, since the engine and its front ends write to the same stream.
"""

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
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        processors += [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return logger
