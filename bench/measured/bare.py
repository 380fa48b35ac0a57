"""The bare loop: ONNX Runtime on the same file, and nothing around it.

Everything here is called in a process of its own.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from artifact import execution
from artifact.golden import CPU_PROVIDER, CUDA_PROVIDER
from bench.load.load import Floats

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
Run = Callable[[Images], Probabilities]

_MIN_RUNS = 2  # of every caller, however slow


@dataclass(frozen=True)
class Graph:
    """What is run.

    Attributes:
        path: an ONNX file of an artifact.
        device: ``cpu`` or ``cuda:0``.
        images: that it is run on, in turn, uint8 ``[N, H, W, C]``.
    """

    path: Path
    device: str
    images: Images


@dataclass(frozen=True)
class Arrangement:
    """How it is run: so many callers of one session, so many threads for each, so many images at once."""

    callers: int
    threads: int
    batch_size: int


@dataclass(frozen=True)
class Timing:
    """How fast it was.

    Attributes:
        run_s: seconds of every run, all callers' together.
    """

    images_per_s: float
    run_s: Floats


def answers(graph: Graph) -> Probabilities:
    """Return the probabilities of the images, each run alone, float32 ``[N, K]``."""
    run = _open(graph, threads=1)
    return np.concatenate([run(graph.images[index : index + 1]) for index in range(len(graph.images))])


def measure(graph: Graph, arrangement: Arrangement, seconds: float) -> Timing:
    """Run a graph again and again."""
    return timed(_open(graph, arrangement.threads), graph.images, arrangement, seconds)


def search(graph: Graph, candidates: Sequence[Arrangement], seconds: float) -> Arrangement:
    """Find the arrangement with most images per second.

    Args:
        seconds: for each.
    """
    runs = {threads: _open(graph, threads) for threads in {one.threads for one in candidates}}
    return max(candidates, key=lambda one: timed(runs[one.threads], graph.images, one, seconds).images_per_s)


def curve_s(
    graph: Graph, callers: int, threads: int, sizes: Sequence[int], seconds: float
) -> dict[int, float]:
    """Measure how long a batch takes, by its size, while all callers are busy.

    Args:
        seconds: for each size.
    """
    run = _open(graph, threads)
    timings = {size: timed(run, graph.images, Arrangement(callers, threads, size), seconds) for size in sizes}
    return {size: float(np.median(timing.run_s)) for size, timing in timings.items()}


def arrangements(device: str, cores: int, sizes: Sequence[int]) -> list[Arrangement]:
    """List what is worth trying: one caller with all cores, or a caller for each core."""
    ways = {(1, cores), (cores, 1)} if device == "cpu" else {(1, 1)}
    return [Arrangement(callers, threads, size) for callers, threads in sorted(ways) for size in sizes]


def timed(run: Run, images: Images, arrangement: Arrangement, seconds: float) -> Timing:
    """Run an open graph again and again, on uint8 ``[N, H, W, C]`` as often as a batch takes."""
    batch = np.resize(images, (arrangement.batch_size, *images.shape[1:]))  # [B, H, W, C]
    run(batch)  # plans memory for this shape
    together = threading.Barrier(arrangement.callers)

    def call() -> list[float]:
        together.wait()
        ends_s = [time.perf_counter()]
        while len(ends_s) <= _MIN_RUNS or ends_s[-1] - ends_s[0] < seconds:
            run(batch)
            ends_s.append(time.perf_counter())
        return ends_s

    with ThreadPoolExecutor(arrangement.callers) as pool:
        calls = [pool.submit(call) for _ in range(arrangement.callers)]
        runs = [np.diff(one.result()) for one in calls]
    return Timing(
        images_per_s=float(sum(len(run_s) * arrangement.batch_size / run_s.sum() for run_s in runs)),
        run_s=np.concatenate(runs),
    )


def _open(graph: Graph, threads: int) -> Run:
    """Open a file with ONNX Runtime's own defaults, but for what changes answers.

    Raises:
        Exception: ONNX Runtime's own, when the file or the device is not usable.
    """
    onnxruntime.set_default_logger_severity(execution.LOG_SEVERITY_FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for key, value in execution.ANSWER_OPTIONS.items():
        options.add_session_config_entry(key, value)
    providers: list[str | tuple[str, dict[str, str]]] = [CPU_PROVIDER]
    if graph.device != "cpu":
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their wheels, where they are installed
        for key, value in execution.CUDA_SESSION_OPTIONS.items():
            options.add_session_config_entry(key, value)
        device_id = {"device_id": graph.device.removeprefix("cuda:")}
        providers = [(CUDA_PROVIDER, {**device_id, **execution.CUDA_PROVIDER_OPTIONS})]
    return runner(onnxruntime.InferenceSession(graph.path, options, providers=providers))


def runner(session: onnxruntime.InferenceSession) -> Run:
    """Return what runs a batch of images through a session."""
    source, outputs = session.get_inputs()[0].name, [session.get_outputs()[0].name]

    def run(images: Images) -> Probabilities:
        probabilities: Probabilities = session.run(outputs, {source: images})[0]
        return probabilities

    return run
