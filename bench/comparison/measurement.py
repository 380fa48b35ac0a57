"""The rounds of one model on one server: the bare loop, the closed loop and the open one, by turns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from artifact.execution import core_count
from artifact.layout import Entry
from bench.comparison import ideal, report
from bench.comparison.open_report import Opened
from bench.comparison.report import Round, Served
from bench.errors import BenchError
from bench.load import h2load, protocols
from bench.load.closed_loop import closed_loop
from bench.load.load import Load, Report
from bench.load.open_loop import open_loop, poisson
from bench.measured import bare, servers, subjects
from bench.measured.bare import Arrangement
from bench.measured.servers import Server
from bench.measured.subjects import Subject
from bench.measured.workers import Worker
from bench.plan import Plan
from client.errors import ClientError

Say = Callable[[str], None]

_SIZES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (1, 2, 4, 8, 16, 32, 64, 128)}
_TRIAL_S = 0.5  # of each batch size, at most
_CHECK_S = 2.0  # of a load that only checks answers
_TRIAL_PATIENCE_S = 60.0  # for the first request of all
_MAX_REQUEST_BYTES = 1 << 30  # the most that a server's max_message_bytes may be


class Measurement:
    """The rounds of one model on one server."""

    def __init__(
        self, plan: Plan, entry: Entry, server: Server, alone: Worker, asking: Worker, say: Say
    ) -> None:
        self._plan = plan
        self._server = server
        self._alone = alone
        self._asking = asking
        self._say = say
        self._model = entry.name
        self.subject = self._find_subject(entry)
        self.load = self._make_load()
        self._try()
        self._checked_elsewhere = _generator(plan) == h2load.GENERATOR
        self._sizes = _SIZES["cpu" if self.subject.graph.device == "cpu" else "cuda"]
        self._trial_s = min(_TRIAL_S, plan.loop_s / 10)
        self.arrangement = self._find_arrangement()

    def run(self) -> tuple[list[Round], list[Opened]]:
        """Measure all rounds."""
        rounds, loops = [], []
        for number in range(1, self._plan.rounds + 1):
            one = Round(self._bare(), self._closed())
            rounds.append(one)
            said = (
                f"round {number} of {self._plan.rounds}: bare {one.bare.images_per_s:,.1f}, "
                f"served {one.served.images_per_s:,.1f} images/s"
            )
            if self._plan.rate is not None:
                loops.append(self._open(one.served, number))
                answered = loops[-1].served.report.answered
                said += f"; {answered:,} answered of {loops[-1].rate_per_s:,.1f} requests/s"
            self._say(f"{self._model}: {said}")
        return rounds, loops

    def _find_subject(self, entry: Entry) -> Subject:
        precision, device = self._plan.precision or "fp32", self._plan.device or "cpu"
        if self._plan.protocol == "modelzoo":
            status = servers.described(self._server, entry.name)
            precision, device = status.precision, status.device
            if status.version != entry.version:
                raise BenchError(
                    f"{self._server.address} serves version {status.version} of {entry.name}, "
                    f"and {self._plan.repository} holds {entry.version}"
                )
        graph, published = subjects.read(entry, precision, device)
        # A server of our own has the file and the machine that the bare loop has.
        here = self._server.started_here
        expected = self._alone.call(bare.answers, graph) if here else published
        return subjects.subject(entry, precision, graph, expected, same_file_here=here)

    def _make_load(self) -> Load:
        plan, pictures = self._plan, list(self.subject.graph.images)
        if (size_bytes := plan.images * pictures[0].nbytes) > _MAX_REQUEST_BYTES:
            raise BenchError(
                f"a request of {plan.images:,} images has {size_bytes:,} bytes; "
                f"no server takes more than {_MAX_REQUEST_BYTES:,}"
            )
        protocol: protocols.WireProtocol = protocols.Classify(self._model)
        if plan.protocol == "open-inference":
            try:
                protocol = protocols.infer(self._server.address, self._model, pictures[0])
            except ClientError as error:
                raise BenchError(servers.complaint(error, self._server.address)) from error
            except ValueError as error:
                raise BenchError(f"{self._server.address}: {error}") from error
        return Load(
            protocol=protocol,
            pictures=pictures,
            labels=self.subject.labels,
            images_per_request=plan.images,
            outstanding=plan.outstanding,
            streams=plan.streams,
            seconds=plan.loop_s,
            warm_up_s=plan.warm_up_s,
        )

    def _try(self) -> None:
        """Ask one such request: what the server refuses outright, every load of it would measure as refusals.

        Raises:
            BenchError: it is refused, or not answered.
        """
        one = replace(
            self.load,
            pictures=self.load.pictures[:1],
            labels=self.load.labels[:1],
            outstanding=1,
            requests=1,
            streams=min(1, self.load.streams),
            seconds=_TRIAL_PATIENCE_S,
            warm_up_s=0.0,
            patience_s=0.0,
        )
        found = self._asking.call(closed_loop, one, self._server.address)
        if found.refused:
            raise BenchError(
                f"a request of {self._plan.images:,} images is refused: "
                f"{report.refusals(found.refused, found.messages).removeprefix('1 ')}"
            )
        if found.hung:
            raise BenchError(
                f"a request of {self._plan.images:,} images has no answer after {_TRIAL_PATIENCE_S:.0f} s"
            )

    def _find_arrangement(self) -> Arrangement:
        """Find the best that ONNX Runtime can do with this load."""
        self._say(f"{self._model}: looking for the fastest bare loop")
        candidates = bare.arrangements(self.subject.graph.device, core_count(), self._sizes)
        if self._plan.outstanding == 1:  # what one request takes, which no batch makes quicker
            threads = {one.threads for one in candidates}
            candidates = [Arrangement(1, count, self._plan.images) for count in sorted(threads)]
        return self._alone.call(bare.search, self.subject.graph, candidates, self._trial_s)

    def _bare(self) -> bare.Timing:
        return self._alone.call(bare.measure, self.subject.graph, self.arrangement, self._plan.loop_s)

    def _closed(self) -> Served:
        check = None
        run: Callable[[Load, str], Report] = closed_loop
        if self._checked_elsewhere:
            run = h2load.closed_loop
            short = replace(self.load, seconds=min(_CHECK_S, self.load.seconds), warm_up_s=0.0)
            check = self._asking.call(closed_loop, short, self._server.address)
        return self._costed(lambda: self._asking.call(run, self.load, self._server.address), check)

    def _open(self, capacity: Served, seed: int) -> Opened:
        plan = self._plan
        assert plan.rate is not None
        capacity_per_s = capacity.images_per_s / plan.images
        rate_per_s = plan.rate.per_s(capacity_per_s)
        if not rate_per_s:
            raise BenchError(
                "the closed loop was answered nothing, so there is no capacity to take a share of"
            )
        arrivals_s = poisson(rate_per_s, plan.seconds, seed)
        ideal_s = None
        if plan.deadline_s is None:
            lanes, threads = self._arranged()
            curve_s = self._alone.call(
                bare.curve_s, self.subject.graph, lanes, threads, self._sizes, self._trial_s
            )
            ideal_s = ideal.latencies_s(arrivals_s, plan.images, curve_s, lanes)
        load = replace(self.load, deadline_s=plan.deadline_s)
        before_bytes = self._server.memory_bytes()
        served = self._costed(
            lambda: self._asking.call(open_loop, load, arrivals_s, self._server.address), check=None
        )
        unfinished = self._server.unfinished_calls(self._model)
        after_bytes = self._server.memory_bytes()
        return Opened(
            served=served,
            capacity_per_s=capacity_per_s,
            rate_per_s=rate_per_s,
            seconds=plan.seconds,
            ideal_latencies_s=ideal_s,
            unfinished_calls=unfinished,
            memory_bytes=None if before_bytes is None or after_bytes is None else (before_bytes, after_bytes),
        )

    def _arranged(self) -> tuple[int, int]:
        """Return the batches of the server that do not slow each other down, and the threads of each.

        Those of the bare loop, where they are not known.
        """
        if (arranged := self._server.arranged) is not None:
            return min(arranged.lanes, max(1, core_count() // arranged.threads)), arranged.threads
        return self.arrangement.callers, self.arrangement.threads

    def _costed(self, load: Callable[[], Report], check: Report | None) -> Served:
        """Run a load, and find out what it cost the server."""
        work, cpu_s = self._server.work(self._model), self._server.cpu_s()
        done = load()
        after_cpu_s, after = self._server.cpu_s(), self._server.work(self._model)
        return Served(
            report=done,
            check=check,
            cpu_s=None if cpu_s is None or after_cpu_s is None else after_cpu_s - cpu_s,
            work=None if work is None or after is None else after.since(work),
        )


def _generator(plan: Plan) -> Literal["h2load", "python"]:
    if plan.generator == "auto":
        # h2load takes refusals for answers, and only a server that is started here tells them apart.
        may = h2load.installed() and not plan.streams and plan.address is None
        return "h2load" if may else "python"
    return plan.generator
