"""How long a server takes from its start to the first right answer.

    python -m bench.start lenet5-digits [--repository models] [--starts 10]

Servers of the whole repository are started one after the other. Each is asked over gRPC for the golden
pictures of one model as soon as it says that it serves. Processor time stands beside the clock's, because it
moves less where other programs run.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.measured import servers, subjects
from bench.measured.subjects import Subject
from bench.plan import Plan
from client.client import Client
from client.errors import ClientError


@dataclass(frozen=True)
class Start:
    """One start, in seconds since the process was started.

    Attributes:
        serving: until every model was tried, and one is READY.
        answered: until the model has given all of its golden pictures their right labels.
        processor: processor time of the server until then.
    """

    serving: float
    answered: float
    processor: float


def main() -> int:
    """Start the servers and print the table; 1 where one did not start, or gave a wrong answer."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--frontends", type=int, default=0)
    options = parser.parse_args()
    plan = Plan(options.repository, "fp32", "cpu", frontends=options.frontends)
    try:
        entry = subjects.find(options.model, options.repository)
        graph, expected = subjects.read(entry, "fp32", "cpu")
        subject = subjects.subject(entry, "fp32", graph, expected, same_file_here=False)
        starts = [measure(plan, subject) for _ in range(max(1, options.starts))]
    except BenchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    title = f"{len(starts)} starts, {platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=title, box=None)
    for column in ("seconds", "median", "best", "worst"):
        table.add_column(column, justify="right")
    for field in fields(Start):
        values = [getattr(start, field.name) for start in starts]
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(field.name, *(f"{figure:.2f}" for figure in figures))
    Console().print(table)
    return 0


def measure(plan: Plan, subject: Subject) -> Start:
    """Start a server, and ask it.

    Raises:
        BenchError: it did not start, or gave a wrong answer.
    """
    started_s = time.perf_counter()
    with servers.started(plan, str(plan.repository)) as server, Client(server.address) as client:
        serving_s = time.perf_counter() - started_s
        try:
            answers = client.classify(subject.entry.name, list(subject.graph.images), top_k=1)
        except ClientError as error:
            raise BenchError(error.describe(server.address)) from error
        answered_s = time.perf_counter() - started_s
        processor_s = server.cpu_s() or 0.0
        given = [labels[0].index for labels in answers]
        wrong = sum(one not in right for one, right in zip(given, subject.labels, strict=True))
        if wrong:
            raise BenchError(f"{subject.entry.name} gave {wrong} of {len(given)} pictures a wrong label")
    return Start(serving_s, answered_s, processor_s)


if __name__ == "__main__":
    sys.exit(main())
