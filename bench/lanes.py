"""Which lanes serve best on a CPU: the same load on servers with so many lanes of so many threads.

    python -m bench.lanes resnet18-digits [--settings 1x2 2x1] [--clients 16]

1x2 is one batch at a time on two threads, 2x1 is two at a time on one thread each. All servers run at once
and are asked in turns, round by round, so that what disturbs one disturbs the others. Every answer is held
against the label that the model's golden file expects.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from artifact import golden, layout, manifest
from artifact.errors import ArtifactError
from artifact.golden import Golden
from client.client import ClientError
from client.load import Load, Report, closed_loop


@dataclass
class Rival:
    """A server with so many lanes.

    Attributes:
        setting: lanes and threads of each, as in ``2x1``.
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
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--settings", nargs="+", default=["1x2", "2x1"], help="lanes x threads of each")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=20, help="of each client, in each round")
    parser.add_argument("--images", type=int, default=1, help="per request")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        expected = _golden(options.repository, options.model)
        load = Load(options.model, list(expected.images), options.clients, options.requests, options.images)
        with ExitStack() as stack:
            rivals = [_start(stack, options, setting) for setting in options.settings]
            for rival in rivals:
                closed_loop(load, rival.address)  # not counted
            for _ in range(options.rounds):
                for rival in rivals:
                    rival.reports.append(closed_loop(load, rival.address))
    except (ArtifactError, ClientError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    labels = expected.probabilities.argmax(axis=1)
    title = f"{options.model}, {options.clients} clients, {platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=title, box=None)
    for column in (
        "lanes x threads",
        "images/s",
        "worst",
        "best",
        "p50 ms",
        "p99 ms",
        "mean batch",
        "errors",
    ):
        table.add_column(column, justify="right")
    failed = 0
    for rival in rivals:
        wrong = sum(_errors(report, labels.tolist()) for report in rival.reports)
        table.add_row(rival.setting, *_figures(rival.reports), str(wrong))
        failed += wrong
    Console().print(table)
    return int(failed > 0)


def _golden(repository: Path, model: str) -> Golden:
    """Read a model's golden images and answers.

    Raises:
        ArtifactError: its artifact cannot be read.
        ValueError: there is no such model.
    """
    folders = {entry.name: entry.folder for entry in layout.newest(repository)}
    if model not in folders:
        raise ValueError(f"{repository} holds no model called {model!r}")
    folder = folders[model]
    return golden.read(folder / manifest.read(folder).golden.name)


def _start(stack: ExitStack, options: argparse.Namespace, setting: str) -> Rival:
    """Start a server, wait until it serves, and have it stopped in the end.

    Raises:
        ValueError: it did not start; says what it said last.
    """
    lanes, _, threads = setting.partition("x")
    only = stack.enter_context(TemporaryDirectory())  # a repository of the one model
    (Path(only) / options.model).symlink_to((options.repository / options.model).resolve())
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "serve",
        "--repository",
        only,
        "--precision",
        options.precision,
    ]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--device", "cpu", "--log-format", "json"]
    environment = os.environ | {"MODELZOO_LANES": lanes, "MODELZOO_THREADS_PER_LANE": threads}
    process = stack.enter_context(
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
    )
    stack.callback(process.terminate)
    address, line = "", ""
    for line in process.stderr or ():  # while it serves it has little to say
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if event["event"] == "listening":
            address = event["grpc"]
        if event["event"] == "serving":
            return Rival(setting, address)
    raise ValueError(f"the server with {setting} did not start: {line.strip()}")


def _errors(report: Report, labels: Sequence[int]) -> int:
    return sum(label != labels[index] for index, label in report.answers) + len(report.errors)


def _figures(reports: Sequence[Report]) -> list[str]:
    rates = [len(report.answers) / report.duration_s for report in reports]
    latencies_ms = sorted(1e3 * seconds for report in reports for seconds in report.latencies_s)
    sizes = [size for report in reports for size in report.batch_sizes]
    if not latencies_ms:
        return ["-"] * 6
    return [
        *(f"{rate:,.1f}" for rate in (statistics.median(rates), min(rates), max(rates))),
        *(f"{latencies_ms[int(share * (len(latencies_ms) - 1))]:.1f}" for share in (0.5, 0.99)),
        f"{statistics.mean(sizes):.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
