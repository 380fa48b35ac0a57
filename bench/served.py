"""How much a server costs: closed-loop load on a running server, for one model and several client counts.

    python -m bench.served lenet5-digits [--address 127.0.0.1:8001]

Every answer is compared with the label that the artifact's golden file expects, so a fast wrong answer
counts as an error. Prints requests and images per second, latency percentiles and the mean batch.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from artifact import golden, layout, manifest
from client.client import DEFAULT_ADDRESS, ClientError
from client.load import Load, Report, closed_loop

CLIENTS = (1, 8, 64)
PERCENTS = (50, 90, 99)


def main() -> int:
    """Run the loads and print the table; 1 where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.served", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("models"), help="where its golden file lies")
    parser.add_argument("--address", default=DEFAULT_ADDRESS)
    parser.add_argument("--requests", type=int, default=2000, help="in all, for each count of clients")
    parser.add_argument("--images", type=int, default=1, help="per request")
    options = parser.parse_args()

    entries = {entry.name: entry for entry in layout.newest(options.repository)}
    if options.model not in entries:
        sys.stderr.write(f"{options.repository} holds no model called {options.model!r}\n")
        return 1
    folder = entries[options.model].folder
    expected = golden.read(folder / manifest.read(folder).golden.name)
    labels = expected.probabilities.argmax(axis=1)

    table = Table(title=f"{options.model} on {platform.machine()}, {os.cpu_count()} cores", box=None)
    columns = ("clients", "requests/s", "images/s", *(f"p{percent} ms" for percent in PERCENTS), "mean batch")
    for column in (*columns, "errors"):
        table.add_column(column, justify="right")
    failed = False
    for clients in CLIENTS:
        load = Load(
            options.model,
            pictures=list(expected.images),
            clients=clients,
            requests=max(1, options.requests // clients),
            images_per_request=options.images,
        )
        try:
            report = closed_loop(load, options.address)
        except ClientError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        wrong = sum(label != labels[index] for index, label in report.answers) + len(report.errors)
        failed |= wrong > 0
        table.add_row(str(clients), *_figures(report), str(wrong))
    Console().print(table)
    return int(failed)


def _figures(report: Report) -> list[str]:
    answered = len(report.latencies_s)
    if not answered:
        return ["-"] * (3 + len(PERCENTS))
    return [
        f"{answered / report.duration_s:,.0f}",
        f"{len(report.answers) / report.duration_s:,.0f}",
        *(f"{report.percentile_s(percent) * 1e3:.2f}" for percent in PERCENTS),
        f"{np.mean(report.batch_sizes):.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
