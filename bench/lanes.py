"""Which lanes serve best on a CPU: the same load on servers with so many lanes of so many threads.

    python -m bench.lanes resnet18-digits [--settings 1x2 2x1 2x2] [--clients 16]

1x2 is one batch at a time on two threads, 2x1 is two at a time on one thread each, and 2x2 is two at a time
that share two threads, which a batch alone has to itself. All servers run at once
and are asked in turns, round by round, so that what disturbs one disturbs the others. Every answer is held
against the label that the model's golden file expects.
"""

import argparse
import os
import platform
import re
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.comparison.report import messages, refusals
from bench.errors import BenchError
from bench.load.closed_loop import closed_loop
from bench.load.load import Load, Report, percentile_s
from bench.load.protocols import Classify
from bench.measured import servers, subjects
from bench.plan import Plan

_COLUMNS = ("lanes", "images/s", "worst", "best", "p50 ms", "p99 ms", "mean batch", "errors")


@dataclass
class Rival:
    """A server with so many lanes.

    Attributes:
        setting: lanes and the threads that they share or have, as in ``2x1``.
        address: of its gRPC port.
    """

    setting: str
    address: str
    reports: list[Report] = field(default_factory=list)


def main() -> int:
    """Run the rounds and print the table; 1 where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.lanes", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--settings", nargs="+", default=["1x2", "2x1", "2x2"], help="lanes x threads")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--images", type=int, default=1, help="per request")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        load = _load(options)
        with ExitStack() as stack:
            rivals = [_start(stack, options, setting) for setting in options.settings]
            for rival in rivals:
                closed_loop(load, rival.address)  # not counted
            for _ in range(options.rounds):
                for rival in rivals:
                    rival.reports.append(closed_loop(load, rival.address))
    except (BenchError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    title = f"{options.model}, {options.clients} clients, {platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=title, box=None)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for rival in rivals:
        table.add_row(rival.setting, *_figures(rival.reports))
    Console().print(table)
    reports = [report for rival in rivals for report in rival.reports]
    refused = sum((report.refused for report in reports), Counter[str]())
    if refused:
        sys.stderr.write(f"refused: {refusals(refused, messages(reports))}\n")
    return int(any(report.errors for report in reports))


def _load(options: argparse.Namespace) -> Load:
    """Ask for the model's golden pictures.

    Raises:
        BenchError: there is no such model, or it is damaged.
        ValueError: there would be no client.
    """
    entry = subjects.find(options.model, options.repository)
    graph, expected = subjects.read(entry, options.precision, "cpu")
    subject = subjects.subject(entry, options.precision, graph, expected, same_file_here=False)
    return Load(
        protocol=Classify(options.model),
        pictures=list(subject.graph.images),
        labels=subject.labels,
        images_per_request=options.images,
        outstanding=options.clients,
        seconds=options.seconds,
    )


def _start(stack: ExitStack, options: argparse.Namespace, setting: str) -> Rival:
    """Start a server that is stopped in the end.

    Raises:
        BenchError: there is no such setting, or the server did not start.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", setting)
    if match is None:
        raise BenchError(f"no setting: {setting!r}; 2x1 is two lanes of one thread")
    config = Path(stack.enter_context(TemporaryDirectory())) / "lanes.toml"
    config.write_text(f"lanes = {match[1]}\nintra_op_threads = {match[2]}\n", "utf-8")
    plan = Plan(options.repository, options.precision, "cpu", config)
    entry = subjects.find(options.model, options.repository)
    return Rival(setting, stack.enter_context(servers.opened(plan, entry)).address)


def _figures(reports: Sequence[Report]) -> list[str]:
    rates = [report.images_per_s() for report in reports]
    latencies_s = np.concatenate([report.latencies_s for report in reports])
    sizes = [report.mean_batch for report in reports if report.mean_batch is not None]
    errors = str(sum(report.errors for report in reports))
    if not latencies_s.size or not sizes:
        return [*["-"] * (len(_COLUMNS) - 2), errors]
    return [
        *(f"{rate:,.1f}" for rate in (statistics.median(rates), min(rates), max(rates))),
        *(f"{1e3 * percentile_s(latencies_s, percent):.1f}" for percent in (50, 99)),
        f"{statistics.mean(sizes):.1f}",
        errors,
    ]


if __name__ == "__main__":
    sys.exit(main())
