"""Measures one model: the bare loop and the server by turns, so that a slow moment strikes both."""

from collections import Counter
from dataclasses import dataclass

from artifact import execution
from bench.comparison import first_requests, open_report, report
from bench.comparison.first_requests import Starts
from bench.comparison.measurement import Measurement, Say
from bench.comparison.open_report import Open
from bench.comparison.report import Closed
from bench.errors import BenchError
from bench.load import h2load
from bench.measured import servers, subjects
from bench.measured.workers import Worker
from bench.plan import Plan


@dataclass(frozen=True)
class Comparison:
    """A model's figures.

    Attributes:
        pictures: that were asked in turn.
        certain_pictures: those with one right label; the others' labels are closer to each other than the
            artifact promises to tell.
        connections: that the requests were shared between.
        cores: that this process may use.
        open: of the open loop, where one was asked for.
        starts: of the first requests, where they were asked for.
    """

    model: str
    version: int
    precision: str
    device: str
    processor: str
    cores: int
    address: str
    started_here: bool
    protocol: str
    outstanding: int
    connections: int
    streams: int
    images_per_request: int
    seconds: float
    pictures: int
    certain_pictures: int
    closed: Closed
    open: Open | None
    starts: Starts | None

    @property
    def failed(self) -> int:
        """Count the requests that should have had a right answer and had none."""
        parts = (self.closed, self.open, self.starts)
        return sum(part.failed for part in parts if part is not None)

    @property
    def refusals(self) -> str:
        """Describe the refusals of all loads: how many, which status, the server's first message."""
        parts = [part for part in (self.closed, self.open, self.starts) if part is not None]
        refused = sum((Counter(part.refused) for part in parts), Counter[str]())
        return report.refusals(
            refused, {code: text for part in reversed(parts) for code, text in part.messages.items()}
        )


def compare(name: str, plan: Plan, say: Say) -> Comparison:
    """Measure a model as planned.

    Args:
        say: told what is going on.

    Raises:
        BenchError: it cannot be measured, or the measurement broke off.
    """
    if plan.generator == "h2load" and not h2load.installed():
        raise BenchError("h2load is not installed; it is in Debian's package nghttp2-client")
    entry = subjects.find(name, plan.repository)
    with Worker() as alone, Worker() as asking:
        with servers.opened(plan, entry) as server:
            measured = Measurement(plan, entry, server, alone, asking, say)
            rounds, loops = measured.run()
        starts = (
            first_requests.measure(plan, entry, measured.load, asking, say, plan.starts)
            if plan.starts
            else None
        )
    return Comparison(
        model=name,
        version=entry.version,
        precision=measured.subject.precision,
        device=measured.subject.graph.device,
        processor=execution.processor(),
        cores=execution.core_count(),
        address=server.address,
        started_here=server.started_here,
        protocol=plan.protocol,
        outstanding=plan.outstanding,
        connections=min(measured.load.connections, plan.streams or plan.outstanding),
        streams=plan.streams,
        images_per_request=plan.images,
        seconds=plan.seconds,
        pictures=len(measured.subject.labels),
        certain_pictures=measured.subject.certain,
        closed=report.closed(rounds, measured.arrangement, one_at_a_time=plan.outstanding == 1),
        open=open_report.opened(loops, deadline=plan.deadline_s is not None) if loops else None,
        starts=starts,
    )
