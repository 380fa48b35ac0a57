"""The first requests of servers that have just become READY, against those that follow."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from artifact.layout import Entry
from bench.comparison import report
from bench.comparison.report import Latency
from bench.load.closed_loop import closed_loop
from bench.load.load import Floats, Load, Report
from bench.measured import servers
from bench.measured.workers import Worker
from bench.plan import Plan

FIRST = 1000  # requests of each start
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Starts:
    """All starts together.

    Attributes:
        first: of the first requests of each start.
        steady: of as many that followed.
        p99_to_steady: first / steady.
        refused: by status.
        messages: the server's message to the first of these, by status.
        failed: requests without a right answer.
    """

    starts: int
    requests_each: int
    first: Latency
    steady: Latency
    p99_to_steady: float | None
    refused: dict[str, int]
    messages: dict[str, str]
    failed: int


def measure(
    plan: Plan, entry: Entry, load: Load, asking: Worker, say: Callable[[str], None], starts: int
) -> Starts:
    """Start servers one after the other, and ask each as soon as it is READY.

    Raises:
        BenchError: one did not start.
    """
    load = replace(load, requests=2 * FIRST, warm_up_s=0.0, seconds=_PATIENCE_S)
    reports = []
    for number in range(1, starts + 1):
        with servers.opened(plan, entry) as server:
            reports.append(asking.call(closed_loop, load, server.address))
        say(f"{entry.name}: start {number} of {starts}")
    return summary(reports, FIRST)


def summary(reports: list[Report], first: int) -> Starts:
    """Put the starts together.

    Args:
        first: how many requests of each are the first ones.
    """
    split = [np.split(_as_asked(one), [first]) for one in reports]
    early, late = report.percentiles([one[0] for one in split]), report.percentiles([one[1] for one in split])
    return Starts(
        starts=len(reports),
        requests_each=first,
        first=early,
        steady=late,
        p99_to_steady=report.per(early.p99_s, late.p99_s),
        refused=dict(sum((one.refused for one in reports), Counter[str]())),
        messages=report.messages(reports),
        failed=sum(one.errors for one in reports),
    )


def _as_asked(one: Report) -> Floats:
    """Return the latencies in the order in which the requests were asked."""
    latencies_s: Floats = one.latencies_s[np.argsort(one.asked_s, kind="stable")]
    return latencies_s
