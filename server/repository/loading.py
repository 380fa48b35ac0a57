"""From an artifact's folder to a network that has proved itself on this device, and what its batches take."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from artifact import golden, manifest
from artifact.errors import ArtifactError, GoldenError, MissingPrecisionError
from artifact.golden import Comparison, Golden
from artifact.pictures import Pixels
from modelzoo.v1 import manifest_pb2
from server.inference import Probabilities
from server.repository import graph_limits, trial
from server.repository.time_limit import TimeLimit
from server.runtime.device import Device
from server.runtime.network import Network, OpenNetwork, Pipelined
from server.runtime.opening import close_network
from server.runtime.opening import open_network as open_best

# A time is stable when another run hardly moves the median of the last ones.
_LAST_RUNS, _STABLE_RATIO, _MOST_RUNS = 5, 0.05, 20
_TOGETHER_S = 60.0  # for the threads of some batches to begin


@dataclass(frozen=True)
class Artifact:
    """An artifact; all of its files are what was published."""

    folder: Path
    manifest: manifest_pb2.Manifest
    labels: tuple[str, ...]
    golden: Golden


def read(folder: Path, described: manifest_pb2.Manifest | None = None) -> Artifact:
    """Read an artifact and check every file of it.

    Args:
        described: its manifest, where that was read already.

    Raises:
        ArtifactError: it is not what was published, or contradicts itself.
    """
    described = described or manifest.read(folder)
    manifest.check_files(described, folder)
    labels = manifest.read_labels(described, folder)
    shape = (described.input.height, described.input.width, described.input.channels)
    expected = golden.read(folder / described.golden.name, shape, described.label_count)
    return Artifact(folder, described, labels, expected)


def cost(folder: Path) -> int:
    """Return how many bytes `read` would read; 0 for an artifact that it will refuse at once."""
    try:
        return manifest.check_sizes(manifest.read(folder), folder)
    except ArtifactError:
        return 0


def require_bounded(
    artifact: Artifact,
    precision: manifest_pb2.Precision,
    device: Device,
    batch_sizes: Sequence[int],
    max_bytes: int,
    timeout_s: float,
) -> None:
    """Require that a network takes no more memory and time than it may, before it is opened here.

    Raises:
        UnsafeGraphError: it takes more, or is no artifact's graph.
    """
    path = artifact.folder / precision.file.name
    pixels = artifact.manifest.input
    shape = (pixels.height, pixels.width, pixels.channels)
    if not graph_limits.require_bounded(path, (max(batch_sizes), *shape), max_bytes):
        # A large batch may take a processor minutes, and is not what a CUDA device's memory depends on.
        sizes = (1,) if device.ordinal is not None else (1, max(batch_sizes))
        trial.require(path, shape, sizes, max_bytes, timeout_s)


def choose_precision(described: manifest_pb2.Manifest, wanted: str, device: Device) -> manifest_pb2.Precision:
    """Find the file to serve.

    Args:
        wanted: a precision, or ``auto``: fp16 on CUDA where it is published, else fp32. Speed must not
            change answers unasked, so ``auto`` never means int8.

    Raises:
        MissingPrecisionError: it is not published; says why not, where the manifest does.
    """
    published = {precision.name: precision for precision in described.precisions}
    if wanted == "auto":
        wanted = "fp16" if device.ordinal is not None and "fp16" in published else "fp32"
    if wanted in published:
        return published[wanted]
    refused = {refusal.precision: refusal.reason for refusal in described.refusals}
    reason = refused.get(wanted, f"published are {', '.join(published)}")
    raise MissingPrecisionError(f"{wanted} is not published: {reason}")


@dataclass(frozen=True)
class Proof:
    """What running a network has shown.

    Attributes:
        comparison: with the golden answers, the one with the largest difference.
        latency_s: time of a batch, by its size: the shortest of its last runs, because whatever else runs on
            the machine only makes it longer.
    """

    comparison: Comparison
    latency_s: dict[int, float]


def open_and_prove(
    artifact: Artifact,
    precision: manifest_pb2.Precision,
    device: Device,
    batch_sizes: Sequence[int],
    open_network: OpenNetwork = open_best,
    budget_s: float = 0.0,
    *,
    lanes: int = 1,
    keep: Callable[[dict[int, float]], dict[int, float]] = dict,
    timeout_s: float = math.inf,
) -> tuple[Network, Proof]:
    """Open an artifact's network on a device and hold its answers against the golden ones.

    Args:
        budget_s: see `prove`.
        lanes: batches that will run at the same time.
        keep: chooses, by the time that a batch of each size takes, the sizes that will.
        timeout_s: of all of it.

    Raises:
        GoldenError: an answer is not the expected one, or the graph is not what the manifest says.
        TimeoutError: it takes longer.
        Exception: whatever ONNX Runtime raises.
    """
    tolerance = _tolerance(precision, device.provider)
    limit = TimeLimit(timeout_s)
    path = artifact.folder / precision.file.name
    network = open_network(path, artifact.manifest, device, batch_sizes)
    expected = Golden(artifact.golden.images, artifact.golden.expected(precision.name))
    try:
        with limit.on(network):
            proof = prove(network, expected, batch_sizes, tolerance, budget_s, require_time=limit.require)
            proof = replace(proof, latency_s=keep(proof.latency_s))
            if lanes > 1:
                prove_at_once(network, expected, max(proof.latency_s), tolerance, lanes)
    except Exception:
        close_network(network)
        raise
    return network, proof


def prove(
    network: Network,
    expected: Golden,
    batch_sizes: Sequence[int],
    tolerance: float,
    budget_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    require_time: Callable[[], None] = lambda: None,
) -> Proof:
    """Run a network at every batch size, hold its answers against the golden ones, and take its times.

    This is also the warm-up: the largest size comes first, so that the memory it takes is taken before
    the first request. Each size runs until its time is stable or its share of the budget is spent, once at
    least, and as often as the network may have batches on their way, each of which has memory of its own;
    every run's answers are compared.

    Args:
        budget_s: time for runs that are for the times' sake only.
        require_time: raises TimeoutError when there is no more time for any run.

    Raises:
        GoldenError: an answer is not the expected one.
        TimeoutError: `require_time`'s.
        Exception: whatever the network raises.
    """
    worst: Comparison | None = None
    latency_s: dict[int, float] = {}
    sizes = sorted(set(batch_sizes), reverse=True)
    least = network.depth if isinstance(network, Pipelined) else 1
    for batch_size in sizes:
        rows, right = _filled(expected, batch_size)
        runs_s: list[float] = []
        while len(runs_s) < least or not _stable(runs_s, budget_s / len(sizes)):
            require_time()
            started_s = clock()
            answers = network.infer(rows)
            runs_s.append(clock() - started_s)
            comparison = golden.compare(right, answers, tolerance)
            comparison.require(f"batch size {batch_size}")
            if worst is None or comparison.max_abs_difference > worst.max_abs_difference:
                worst = comparison
        latency_s[batch_size] = min(runs_s[-_LAST_RUNS:])
    if worst is None:
        raise ValueError("no batch size to prove")
    return Proof(worst, latency_s)


def prove_at_once(network: Network, expected: Golden, batch_size: int, tolerance: float, lanes: int) -> None:
    """Run a batch on as many threads as there are lanes, all at the same time, and look at the answers.

    A session takes memory for each run that it has under way; so it is taken before the first request.

    Raises:
        GoldenError: an answer is not the expected one.
        Exception: whatever ONNX Runtime raises.
    """
    rows, right = _filled(expected, batch_size)
    together = threading.Barrier(lanes, timeout=_TOGETHER_S)

    def run(_: int) -> Probabilities:
        together.wait()
        return network.infer(rows)

    with ThreadPoolExecutor(lanes) as threads:
        for answers in threads.map(run, range(lanes)):
            comparison = golden.compare(right, answers, tolerance)
            comparison.require(f"{lanes} batches of {batch_size} at the same time")


def _filled(expected: Golden, batch_size: int) -> tuple[list[Pixels], Probabilities]:
    """Fill a batch with golden images, which come round again where there are fewer; give their answers."""
    chosen = np.resize(np.arange(len(expected.images)), batch_size)
    return [expected.images[index] for index in chosen], expected.probabilities[chosen]


def _stable(runs_s: Sequence[float], budget_s: float) -> bool:
    """Return whether further runs would teach little, or there is no time for them."""
    if runs_s and (sum(runs_s) >= budget_s or len(runs_s) == _MOST_RUNS):
        return True
    if len(runs_s) <= _LAST_RUNS:
        return False
    before_s, now_s = median(runs_s[-_LAST_RUNS - 1 : -1]), median(runs_s[-_LAST_RUNS:])
    return abs(now_s - before_s) < _STABLE_RATIO * before_s


def _tolerance(precision: manifest_pb2.Precision, provider: str) -> float:
    """Find how far answers may be from PyTorch's.

    Raises:
        GoldenError: the manifest does not say, so nothing was promised for this provider.
    """
    for tolerance in precision.tolerances:
        if tolerance.provider == provider:
            return tolerance.max_abs_difference
    raise GoldenError(f"the manifest states no tolerance for {precision.name} with {provider}")
