"""What small requests cost over each transport, beside a server of grpc.aio that does nothing.

    python -m bench.transports lenet5-digits [--repository models] [--seconds 5] [--rounds 3] [--images 1]

Servers of the repository are asked by turns: calls, 32 outstanding on four connections (by `h2load` where it
is installed), and four streams of 32 outstanding. What counts is the processor time of the server: the
clock's depends on what the client takes beside it.
"""

import argparse
import os
import platform
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import ceiling
from bench.errors import BenchError
from bench.load.load import Load, Report
from bench.load.protocols import Classify
from bench.measured import servers, subjects
from bench.measured.servers import Server
from bench.plan import Plan

TRANSPORTS = ("grpc", "h2corn")
_NOTHING = "nothing"  # that answers, and does nothing


@dataclass(frozen=True)
class Round:
    """One run of a load.

    Attributes:
        cpu_s: of the server, for a request.
        mean_batch: images; None where the server has no batches.
    """

    report: Report
    cpu_s: float
    mean_batch: float | None


def main() -> int:
    """Run the rounds and print the table; 1 where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.transports", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1, help="of a request")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[Round]] = {}
    try:
        entry = subjects.find(options.model, options.repository)
        graph, expected = subjects.read(entry, "fp32", "cpu")
        subject = subjects.subject(entry, "fp32", graph, expected, same_file_here=False)
        calls = Load(
            Classify(options.model),
            list(graph.images),
            subject.labels,
            images_per_request=options.images,
            outstanding=32,
            seconds=options.seconds,
            warm_up_s=0.5,
        )
        loads = {"calls": calls, "streams": replace(calls, outstanding=128, streams=4)}
        with ExitStack() as stack:
            address, pid = stack.enter_context(ceiling.served("bare"))
            asked = {_NOTHING: Server(address, pid)}
            for transport in TRANSPORTS:
                plan = Plan(options.repository, "fp32", "cpu", transport=transport)
                asked[transport] = stack.enter_context(servers.started(plan, str(options.repository)))
            for _ in range(options.rounds):
                for way, load in loads.items():
                    for name, server in asked.items():
                        one = measure(load, server, None if name == _NOTHING else options.model)
                        found.setdefault((way, name), []).append(one)
    except (BenchError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    Console().print(table(options.model, options.images, found))
    reports = [one.report for rounds in found.values() for one in rounds]
    return int(any(report.errors or not report.answered for report in reports))


def measure(load: Load, server: Server, model: str | None) -> Round:
    """Run a load; without a model the server is the one that does nothing.

    Raises:
        BenchError: the server has ended.
    """
    if model is None:  # it answers label 0 to everything
        load = replace(load, protocol=Classify(ceiling.MODEL), labels=[{0}] * len(load.pictures))
    before = server.work(model) if model else None
    report, requests_a_cpu_s = ceiling.measure(load, server.address, server.pid or 0)
    after = server.work(model) if model else None
    mean_batch = None
    if before is not None and after is not None:
        done = after.since(before)
        mean_batch = done.images / max(1.0, done.batches)
    return Round(report, 1 / max(requests_a_cpu_s, 1e-9), mean_batch)


def table(model: str, images: int, found: dict[tuple[str, str], list[Round]]) -> Table:
    """Lay the medians out."""
    title = f"{model}, {images} images a request, {platform.machine()}, {os.cpu_count()} cores"
    laid_out = Table(title=title, box=None)
    columns = (
        "way",
        "server",
        "requests/s",
        "server CPU ms",
        "x nothing",
        "mean batch",
        "asked by",
        "errors",
    )
    for column in columns:
        laid_out.add_column(column, justify="right")
    for (way, name), rounds in found.items():
        cpu_s = statistics.median(one.cpu_s for one in rounds)
        nothing_s = statistics.median(one.cpu_s for one in found[way, _NOTHING])
        rate = statistics.median(one.report.images_per_s() for one in rounds) / images
        batches = [one.mean_batch for one in rounds if one.mean_batch is not None]
        errors = sum(one.report.errors for one in rounds)
        laid_out.add_row(
            way,
            name,
            f"{rate:,.0f}",
            f"{1e3 * cpu_s:.3f}",
            f"{cpu_s / nothing_s:.2f}",
            f"{statistics.median(batches):.1f}" if batches else "-",
            rounds[0].report.generator,
            str(errors),
        )
    return laid_out


if __name__ == "__main__":
    sys.exit(main())
