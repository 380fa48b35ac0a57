"""How long a graph takes on this machine's CPU, by batch size."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifact.golden import CPU_PROVIDER
from export import session
from export.graph.tracing import INPUT

BUDGET_S = 10.0
_ROUNDS = 30  # at most; the median of more says the same


@dataclass(frozen=True)
class Latency:
    """What one batch takes.

    Attributes:
        provider: ONNX Runtime's name of the execution provider.
        batch_size: images in the batch.
        median_s: seconds of one run, the median of ``runs``.
        runs: how many were timed; 0 where there was time for the warm-up only; then these are its seconds.
    """

    provider: str
    batch_size: int
    median_s: float
    runs: int


def measure(
    path: Path,
    input_shape: tuple[int, int, int],
    batch_sizes: Sequence[int],
    threads: int | None = None,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Time a graph on random images, on the CPU.

    Args:
        input_shape: height, width and channels of an image.
        threads: of one run; None takes as many as this process may use cores.
        budget_s: about how long to measure. Every batch size runs once, however long that takes.

    Raises:
        Exception: ONNX Runtime's own, when the file cannot be run.
    """
    opened = session.on_cpu(path, threads)
    images = np.random.default_rng(0).integers(0, 256, (max(batch_sizes), *input_shape), np.uint8)

    def batch(size: int) -> Callable[[], object]:
        return lambda: opened.run(None, {INPUT: images[:size]})

    timed = interleaved({size: batch(size) for size in batch_sizes}, budget_s, clock)
    return [
        Latency(CPU_PROVIDER, size, statistics.median(seconds), runs)
        for size, (seconds, runs) in timed.items()
    ]


def interleaved(
    works: Mapping[int, Callable[[], object]], budget_s: float, clock: Callable[[], float] = time.perf_counter
) -> dict[int, tuple[list[float], int]]:
    """Time several pieces of work by turns, so that a slow moment of the machine strikes all.

    The first run of each only warms up. Work that the budget has no room left for is passed over.

    Returns:
        For each, the seconds of its runs and their number; the warm-up's and 0 where there was no other.
    """
    ends_s = clock() + budget_s

    def timed(work: Callable[[], object]) -> float:
        started_s = clock()
        work()
        return clock() - started_s

    warm_ups = {key: timed(work) for key, work in works.items()}
    runs: dict[int, list[float]] = {key: [] for key in works}
    for _ in range(_ROUNDS):
        for key, work in works.items():
            if clock() + min(runs[key], default=warm_ups[key]) <= ends_s:
                runs[key].append(timed(work))
    return {key: (found or [warm_ups[key]], len(found)) for key, found in runs.items()}
