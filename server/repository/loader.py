"""One model into memory and out of it again: read, opened, proved, queued; drained and closed."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from structlog.typing import FilteringBoundLogger

from artifact import layout, manifest
from artifact.errors import ArtifactError, first_line, printable
from modelzoo.v1 import manifest_pb2
from server.batching.batcher import Batcher
from server.batching.lane import Lane
from server.batching.latency_profile import LatencyProfile, LoopBudget, default_sizes, up_to_knee
from server.batching.queues import ModelQueue
from server.models.model import Model, State, accuracy_text
from server.observability.metrics import Metrics
from server.repository import loading
from server.repository.disk import in_thread
from server.repository.loading import Artifact, Proof
from server.repository.memory import MemoryMeter
from server.runtime.device import Device
from server.runtime.network import Network, OnnxNetwork, OpenNetwork
from server.runtime.opening import close_network
from server.runtime.pipelined import PipelinedNetwork

# What a model's start may take for the sake of its batches' times, beyond one run of each size.
_MEASURING_S = 1.0
# What libraries say where an allocation failed.
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory")

_CAUSE_CHARACTERS = 1_000  # in the log; ONNX Runtime names two files before it says what is wrong

Report = Callable[[Model, "State.ValueType"], None]


@dataclass(frozen=True)
class _Loaded:
    network: Network
    precision: manifest_pb2.Precision
    proof: Proof
    host_bytes: int
    device_bytes: int


@dataclass
class Loader:
    """Loads models, and takes them out of memory.

    Attributes:
        precision: that models serve in, or `auto`.
        model_precisions: those of single models, by name.
        model_batch_sizes: allowed batch sizes of single models, by name; the others' are powers of two, as
            far as they bring more images per second.
        max_loop_s: how long the event loop may run a batch itself.
        timeout_s: of reading a model, and then of opening and proving it.
        max_model_bytes: that its weights and its largest batch may take, as the graph states.
    """

    device: Device
    lane: Lane
    batcher: Batcher
    metrics: Metrics
    memory: MemoryMeter
    open_network: OpenNetwork
    max_batch_size: int
    max_loop_s: float
    max_queue_size: int
    precision: str
    model_precisions: Mapping[str, str]
    model_batch_sizes: Mapping[str, Sequence[int]]
    log: FilteringBoundLogger
    timeout_s: float
    max_model_bytes: int
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _queues: dict[Model, ModelQueue] = field(default_factory=dict)  # of models that are loaded
    _hand_over_s: float | None = None  # measured once

    async def load(self, model: Model, report: Report) -> None:
        """Load a model: in the end it is READY, or FAILED.

        Args:
            report: puts the model into a state.
        """
        entry = model.entry
        log = self.log.bind(model=entry.name, version=entry.version)
        report(model, State.MODEL_STATE_LOADING)
        started_s = time.monotonic()
        try:
            model.manifest = await in_thread(partial(manifest.read, entry.folder), self.timeout_s)
            artifact, precision = await in_thread(partial(self._read, entry, model.manifest), self.timeout_s)
            model.labels = artifact.labels
            async with self._opening:
                loaded = await self._open(artifact, precision)
        except ArtifactError as error:
            self._fail(model, report, str(error), str(error))
            return
        except TimeoutError:
            reason = f"load timed out after {self.timeout_s:g} s (setting load_timeout_s)"
            self._fail(model, report, reason, reason)
            return
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's, say: this model fails, the others go on
            cause = f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
                self._fail(model, report, "there is not enough memory to load it", cause)
            else:
                self._fail(
                    model, report, "the network could not be loaded; the server's log has the cause", cause
                )
            return
        described = _required(model.manifest)
        latency_s = loaded.proof.latency_s
        profile = LatencyProfile(
            latency_s,
            padded=self.device.ordinal is not None,
            measured_s=time.monotonic(),
            side_by_side=self.batcher.side_by_side,
        )
        queue = self._queues[model] = ModelQueue(
            entry.name,
            loaded.network,
            described.label_count,
            profile,
            self.max_queue_size,
            self.metrics.for_batcher(entry.name, model.statistics),
            loop_budget=self._loop_budget(profile),
        )
        self.batcher.add(queue)
        model.submit = partial(self.batcher.submit, queue)
        model.max_queue_size = self.max_queue_size
        self.metrics.watch_queue(entry.name, queue)
        load_s = time.monotonic() - started_s
        taken = {"cpu": loaded.host_bytes}
        if self.memory.device is not None:
            taken[self.device.name] = loaded.device_bytes
        self.metrics.models.set_loaded(entry.name, entry.version, load_s, taken)
        captured = isinstance(loaded.network, PipelinedNetwork)
        self.metrics.models.set_captured(entry.name, entry.version, captured=captured)
        if isinstance(loaded.network, OnnxNetwork) and loaded.network.not_captured:
            log.warning("graphs_not_captured", reason=loaded.network.not_captured)
        model.status.precision = loaded.precision.name
        if (ratio := manifest.accuracy_ratio(loaded.precision)) is not None:
            model.status.accuracy_ratio = ratio
        model.status.host_memory_bytes = loaded.host_bytes
        model.status.device_memory_bytes = loaded.device_bytes
        model.status.max_batch_size = queue.profile.largest
        for batch_size, seconds in sorted(latency_s.items()):
            model.status.batch_latencies.add(batch_size=batch_size, latency_s=seconds)
        report(model, State.MODEL_STATE_READY)
        log.info(
            "model_ready",
            device=self.device.name,
            precision=loaded.precision.name,
            accuracy=accuracy_text(model.status),
            load_s=round(load_s, 3),
            host_memory_bytes=loaded.host_bytes,
            device_memory_bytes=loaded.device_bytes,
            max_abs_difference=loaded.proof.comparison.max_abs_difference,
            batch_ms={size: round(1e3 * seconds, 3) for size, seconds in sorted(latency_s.items())},
        )

    def _fail(self, model: Model, report: Report, reason: str, cause: str) -> None:
        """Record why a model could not be loaded.

        Args:
            reason: for clients.
            cause: for the log.
        """
        model.status.reason = printable(reason)
        self.metrics.models.load_failed(model.entry.name)
        self.log.error(
            "model_failed",
            model=model.entry.name,
            version=model.entry.version,
            reason=printable(cause, _CAUSE_CHARACTERS),
        )
        report(model, State.MODEL_STATE_FAILED)

    def _read(
        self, entry: layout.Entry, described: manifest_pb2.Manifest
    ) -> tuple[Artifact, manifest_pb2.Precision]:
        """Read an artifact and find the precision to serve; on any thread.

        Raises:
            ArtifactError: it is not what was published, or would take too much.
        """
        artifact = loading.read(entry.folder, described)
        wanted = self.model_precisions.get(entry.name, self.precision)
        precision = loading.choose_precision(described, wanted, self.device)
        sizes = self._batch_sizes(entry.name)
        loading.require_bounded(artifact, precision, self.device, sizes, self.max_model_bytes, self.timeout_s)
        return artifact, precision

    def _batch_sizes(self, name: str) -> Sequence[int]:
        return self.model_batch_sizes.get(name) or default_sizes(self.max_batch_size)

    async def _open(self, artifact: Artifact, precision: manifest_pb2.Precision) -> _Loaded:
        """Open an artifact and prove it.

        Raises:
            ArtifactError: it does not give PyTorch's answers.
            TimeoutError: it takes too long.
            Exception: whatever ONNX Runtime raises.
        """
        name = artifact.manifest.name
        batch_sizes = self._batch_sizes(name)

        def open_and_prove() -> _Loaded:
            host_before, device_before = self.memory.host(), self._device_bytes()
            network, proof = loading.open_and_prove(
                artifact,
                precision,
                self.device,
                batch_sizes,
                self.open_network,
                _MEASURING_S,
                lanes=self.lane.threads,
                keep=dict if name in self.model_batch_sizes else up_to_knee,
                timeout_s=self.timeout_s,
            )
            return _Loaded(
                network,
                precision,
                proof,
                host_bytes=max(0, self.memory.host() - host_before),
                device_bytes=max(0, self._device_bytes() - device_before),
            )

        if self._loop_may_run and self._hand_over_s is None:  # the first model: nothing is served yet
            self._hand_over_s = await self.lane.hand_over_s()
        return await asyncio.wrap_future(self.lane.call(open_and_prove))

    def _loop_budget(self, profile: LatencyProfile) -> LoopBudget | None:
        """Return what the event loop may run itself; None where handing it over takes less than the batch."""
        if self._hand_over_s is None or profile.measured_s(1) >= self._hand_over_s:
            return None
        return LoopBudget(profile, self.max_loop_s)

    @property
    def _loop_may_run(self) -> bool:
        """Return whether the event loop may run any batch itself; CUDA's graphs belong to a thread."""
        return self.device.ordinal is None and self.max_loop_s > 0

    async def unload(self, model: Model) -> None:
        """Take a model that is idle out of memory."""
        if (queue := self._queues.pop(model, None)) is None:
            return
        self.batcher.remove(queue)
        last = [queue]
        del queue
        model.submit = None

        def let_go() -> None:
            close_network(last.pop().network)
            self.memory.host()  # gives what is free now back to the system

        await asyncio.wrap_future(self.lane.call(let_go))
        self.log.info("model_unloaded", model=model.entry.name, version=model.entry.version)

    def _device_bytes(self) -> int:
        return 0 if self.memory.device is None else self.memory.device()


def _required(described: manifest_pb2.Manifest | None) -> manifest_pb2.Manifest:
    if described is None:
        raise RuntimeError("a loaded model has a manifest. This is a bug.")
    return described
