"""The figures of an open loop: how late the answers were, and what became of the rest."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.comparison.report import Latency, Served, mean_batch, messages, per, percentiles, total
from bench.load.load import Floats

# Of what the closed loop reached, or of the rate where that is less: a server that answers less did not shed
# load but refuse it, and the figures of the few answers mean nothing.
LEAST_ANSWERED = 0.1
# How a server may end a request that it cannot answer in time, or that is too much. The last is what gRPC
# says where a connection carries too many calls, and other servers where their queue is full.
ALLOWED = frozenset({"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"})


@dataclass(frozen=True)
class Opened:
    """One open loop.

    Attributes:
        capacity_per_s: requests per second that the closed loop before it reached.
        rate_per_s: at which requests were planned to arrive.
        seconds: for which they did.
        ideal_latencies_s: what an ideal server takes for the same arrivals; None where there are deadlines,
            which it knows nothing of.
        unfinished_calls: that the server still worked on long after.
        memory_bytes: the server's, before and after; None where we cannot know.
    """

    served: Served
    capacity_per_s: float
    rate_per_s: float
    seconds: float
    ideal_latencies_s: Floats | None
    unfinished_calls: int
    memory_bytes: tuple[int, int] | None


@dataclass(frozen=True)
class Open:
    """Requests that arrive when they arrive; all rounds together.

    Attributes:
        rate_per_s: of planned arrivals, a second.
        answered_per_s: right answers, a second of planned arrivals.
        goodput: these, of what the closed loop reached.
        latency: of the answered requests, from their planned arrival.
        ideal: of the ideal server.
        p99_to_ideal: measured / ideal.
        refused: by status.
        messages: the server's message to the first of these, by status.
        hung: requests without a status, and calls that the server never ended.
        failed: requests without a right answer, but for those that a deadline allows to refuse, unless next
            to nothing was answered.
        lag: how much later than planned the requests were sent. Where it is not small, the load was too much
            for the machine, and the latencies are in part its own.
        memory_bytes: the server's, before the first loop and after the last.
    """

    rate_per_s: float
    planned: int
    answered: int
    answered_per_s: float
    goodput: float | None
    latency: Latency
    ideal: Latency | None
    p99_to_ideal: float | None
    mean_batch: float | None
    refused: dict[str, int]
    messages: dict[str, str]
    wrong: int
    hung: int
    failed: int
    lag: Latency
    client_cpu_s: float
    server_cpu_s: float | None
    memory_bytes: tuple[int, int] | None


def opened(loops: Sequence[Opened], *, deadline: bool) -> Open:
    """Put the rounds together."""
    reports = [loop.served.report for loop in loops]
    answered = sum(report.answered for report in reports)
    per_s = answered / sum(loop.seconds for loop in loops)
    latency = percentiles([report.latencies_s for report in reports])
    ideals_s = [loop.ideal_latencies_s for loop in loops if loop.ideal_latencies_s is not None]
    ideal = percentiles(ideals_s) if ideals_s else None
    refused = sum((report.refused for report in reports), Counter[str]())
    wrong = sum(report.wrong for report in reports)
    hung = sum(report.hung for report in reports) + sum(loop.unfinished_calls for loop in loops)
    capacity_per_s = statistics.mean(loop.capacity_per_s for loop in loops)
    rate_per_s = statistics.mean(loop.rate_per_s for loop in loops)
    sheds = deadline and per_s >= LEAST_ANSWERED * min(capacity_per_s, rate_per_s)
    faults = {code: count for code, count in refused.items() if not (sheds and code in ALLOWED)}
    memory_bytes = [loop.memory_bytes for loop in loops if loop.memory_bytes is not None]
    return Open(
        rate_per_s=rate_per_s,
        planned=sum(len(report.lags_s) for report in reports),
        answered=answered,
        answered_per_s=per_s,
        goodput=per(per_s, capacity_per_s),
        latency=latency,
        ideal=ideal,
        p99_to_ideal=per(latency.p99_s, ideal.p99_s) if ideal is not None else None,
        mean_batch=mean_batch([loop.served for loop in loops]),
        refused=dict(refused),
        messages=messages(reports),
        wrong=wrong,
        hung=hung,
        failed=wrong + hung + sum(faults.values()),
        lag=percentiles([report.lags_s for report in reports]),
        client_cpu_s=sum(report.client_cpu_s for report in reports),
        server_cpu_s=total([loop.served.cpu_s for loop in loops]),
        memory_bytes=(memory_bytes[0][0], memory_bytes[-1][1]) if memory_bytes else None,
    )
