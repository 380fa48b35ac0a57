"""What the batcher itself costs: images through queue, lane and futures with a network that does nothing.

    python -m bench.batcher [--callers 256] [--images 100000]

Each caller submits one image, waits for its answer and submits the next: with a task that waits, as a
request does it, or with a callback, as a front end does it. Prints the median round.
"""

import argparse
import asyncio
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import uvloop
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from server.batching.batcher import Batcher
from server.batching.lane import Lane
from server.batching.latency_profile import LatencyProfile
from server.batching.queues import ModelQueue
from server.batching.submissions import Submission
from server.inference import Probabilities, Rows
from server.observability.metrics import Metrics

LARGEST, LABELS = 64, 10
IMAGE = np.zeros((28, 28, 1), np.uint8)
DEADLINE_S = 30.0  # of every submission, as a client's timeout is
TARGET_US = 15.0


class Nothing:
    """A network that answers at once."""

    def __init__(self) -> None:
        self._answers = np.full((LARGEST, LABELS), 1 / LABELS, np.float32)  # [N, K]
        self.batches = 0

    def infer(self, rows: Rows) -> Probabilities:
        """Return so many rows."""
        self.batches += 1
        return self._answers[: len(rows)]


Way = Callable[[Batcher, ModelQueue, int, int], Awaitable[None]]


async def with_tasks(batcher: Batcher, queue: ModelQueue, callers: int, each: int) -> None:
    """Have every caller wait in a task of its own."""

    async def caller() -> None:
        for _ in range(each):
            await batcher.submit(queue, [IMAGE], time.monotonic() + DEADLINE_S)

    await asyncio.gather(*(caller() for _ in range(callers)))


async def with_callbacks(batcher: Batcher, queue: ModelQueue, callers: int, each: int) -> None:
    """Have every caller be called back."""
    left = callers * each
    unasked = left - callers
    finished = asyncio.Event()

    def answered(future: Submission) -> None:
        nonlocal left, unasked
        future.result()
        left -= 1
        if unasked:
            unasked -= 1
            ask()
        elif not left:
            finished.set()

    def ask() -> None:
        asked: Submission = batcher.submit(queue, [IMAGE], time.monotonic() + DEADLINE_S)
        asked.add_done_callback(answered)

    for _ in range(callers):
        ask()
    await finished.wait()


async def measure(way: Way, callers: int, each: int) -> tuple[float, float, float]:
    """Run a load once.

    Returns:
        Microseconds on the clock and of the process per image, and images per batch.
    """
    wake = threading.Condition()
    batcher = Batcher(wake, lambda *_: None)
    # A curve that says nothing: every batch takes what waits.
    profile = LatencyProfile({LARGEST: 1e-6}, padded=False, measured_s=time.monotonic())
    network = Nothing()
    metrics = Metrics(CollectorRegistry()).for_batcher("nothing")
    queue = ModelQueue("nothing", network, LABELS, profile, max(1024, callers), metrics)
    batcher.add(queue)
    lane = Lane(wake, batcher, 1)
    images = callers * each
    wall_s, process_s = time.perf_counter(), time.process_time()
    await way(batcher, queue, callers, each)
    wall_s, process_s = time.perf_counter() - wall_s, time.process_time() - process_s
    batcher.close()
    lane.stop(60)
    return 1e6 * wall_s / images, 1e6 * process_s / images, images / network.batches


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.batcher", description=__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--images", type=int, default=100_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    ways: dict[str, Way] = {"task": with_tasks, "callback": with_callbacks}
    each = max(1, options.images // options.callers)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):  # interleaved, so that what disturbs one disturbs the other
        for name, way in ways.items():
            found[name].append(uvloop.run(measure(way, options.callers, each)))

    title = f"{options.callers} callers on {platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=title, box=None)
    for column in (
        "way",
        "us/image",
        "best",
        "worst",
        "CPU us/image",
        "mean batch",
        f"<= {TARGET_US:.0f} us",
    ):
        table.add_column(column, justify="right")
    for name, rounds in found.items():
        wall_us, process_us, batch = (statistics.median(column) for column in zip(*rounds, strict=True))
        walls_us = [wall for wall, _, _ in rounds]
        figures = [f"{us:.1f}" for us in (wall_us, min(walls_us), max(walls_us), process_us, batch)]
        table.add_row(name, *figures, "yes" if wall_us <= TARGET_US else "no")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
