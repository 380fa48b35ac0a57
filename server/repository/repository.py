"""The models that this server holds, and their lives.

UNLOADED → LOADING → READY → DRAINING, or FAILED with a reason that a client can read. One model that
fails leaves the others serving.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from artifact import layout, manifest
from artifact.errors import ArtifactError
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.batcher import Batcher
from server.costs import Costs, default_sizes, up_to_knee
from server.device import Device
from server.lane import Lane
from server.metrics import Metrics
from server.model import Model, State, accuracy_text, state_name
from server.models import Models
from server.network import Network, OnnxNetwork, OpenNetwork
from server.opening import close_network
from server.pipelined import PipelinedNetwork
from server.queues import ModelQueue
from server.repository import loading
from server.repository.loading import Proof

# What a model's start may take for the sake of its batches' times, beyond one run of each size.
_MEASURING_S = 1.0


@dataclass(frozen=True)
class Memory:
    """Measures what is taken now, in bytes.

    Attributes:
        host: of this process.
        device: of the CUDA device; absent where there is none.
    """

    host: Callable[[], int]
    device: Callable[[], int] | None = None


@dataclass(frozen=True)
class _Loaded:
    network: Network
    precision: manifest_pb2.Precision
    proof: Proof
    host_bytes: int
    device_bytes: int


@dataclass
class Repository(Models):
    """Finds, loads and hands out models.

    Attributes:
        folder: the model repository.
        precision: that models serve in, or `auto`.
        model_precisions: those of single models, by name.
        model_batch_sizes: allowed batch sizes of single models, by name; the others' are powers of two, as
            far as they bring more images per second.
        on_state: told whenever the state of the model that is held changes: its name and state.
        draining: takes no more requests, for any model.
    """

    folder: Path
    device: Device
    lane: Lane
    batcher: Batcher
    metrics: Metrics
    memory: Memory
    open_network: OpenNetwork
    max_batch_size: int
    max_queue_size: int
    precision: str
    model_precisions: Mapping[str, str]
    model_batch_sizes: Mapping[str, Sequence[int]]
    log: FilteringBoundLogger
    on_state: Callable[[str, "State.ValueType"], None]
    draining: bool = False
    _models: dict[str, Model] = field(default_factory=dict)

    def find(self) -> None:
        """Take note of the newest version of every model in the folder; load none."""
        for entry in layout.newest(self.folder):
            self.hold(self.note(entry))
        for setting in ("model_precisions", "model_batch_sizes"):
            for name in getattr(self, setting).keys() - self._models.keys():
                self.log.warning("no_such_model", setting=setting, model=name)

    def note(self, entry: layout.Entry) -> Model:
        """Make a model of what lies in the folder, UNLOADED and not held."""
        status = classifier_pb2.ModelStatus(
            name=entry.name,
            version=entry.version,
            state=State.MODEL_STATE_UNLOADED,
            device=self.device.name,
            max_batch_size=self.max_batch_size,
        )
        return Model(entry, status, self.metrics.for_requests(entry.name))

    def hold(self, model: Model) -> None:
        """Answer requests for a model's name with it, from now on."""
        self._models[model.entry.name] = model
        self._set_state(model, model.status.state)

    def drain(self) -> None:
        """Take no more requests, for any model."""
        self.draining = True
        for model in self._models.values():
            if model.is_ready:
                self._set_state(model, State.MODEL_STATE_DRAINING)

    async def free(self, model: Model) -> None:
        """Wait until nobody waits for a model's answers any more, and take it out of memory."""
        if model.queue is not None:
            self._set_state(model, State.MODEL_STATE_DRAINING)
            await model.in_flight.idle.wait()
            self.batcher.remove(model.queue)
            if self._is_held(model):
                self.metrics.forget_queue(model.entry.name)
            last = [model.queue]
            model.queue = model.submit = None

            def let_go() -> None:
                close_network(last.pop().network)
                self.memory.host()  # gives what is free now back to the system

            await asyncio.wrap_future(self.lane.call(let_go))
            self.log.info("model_unloaded", model=model.entry.name, version=model.entry.version)
        self.metrics.forget_version(model.entry.name, model.entry.version)

    async def load(self, model: Model) -> None:
        """Load a model: in the end it is READY, or FAILED."""
        entry = model.entry
        log = self.log.bind(model=entry.name, version=entry.version)
        self._set_state(model, State.MODEL_STATE_LOADING)
        started_s = time.monotonic()
        try:
            loaded = await self._open(model)
        except ArtifactError as error:
            model.status.reason = str(error)
            log.error("model_failed", reason=str(error))  # noqa: TRY400 - the reason is the whole story
            self._set_state(model, State.MODEL_STATE_FAILED)
            return
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's, say: this model fails, the others go on
            model.status.reason = "the network could not be loaded; the server's log has the cause"
            cause = (str(error).splitlines() or [""])[0]
            log.error("model_failed", reason=f"{type(error).__name__}: {cause}")  # noqa: TRY400 - in one line
            self._set_state(model, State.MODEL_STATE_FAILED)
            return
        described = _required(model.manifest)
        latency_s = loaded.proof.latency_s
        model.queue = ModelQueue(
            entry.name,
            loaded.network,
            described.label_count,
            Costs(
                latency_s,
                padded=self.device.ordinal is not None,
                measured_s=time.monotonic(),
                side_by_side=self.batcher.side_by_side,
            ),
            self.max_queue_size,
            self.metrics.for_batcher(entry.name, model.statistics),
        )
        self.batcher.add(model.queue)
        model.submit = partial(self.batcher.submit, model.queue)
        model.max_queue_size = self.max_queue_size
        self.metrics.watch_queue(entry.name, model.queue)
        load_s = time.monotonic() - started_s
        taken = {"cpu": loaded.host_bytes}
        if self.memory.device is not None:
            taken[self.device.name] = loaded.device_bytes
        self.metrics.set_loaded(entry.name, entry.version, load_s, taken)
        captured = isinstance(loaded.network, PipelinedNetwork)
        self.metrics.set_captured(entry.name, entry.version, captured=captured)
        if isinstance(loaded.network, OnnxNetwork) and loaded.network.not_captured:
            log.warning("graphs_not_captured", reason=loaded.network.not_captured)
        model.status.precision = loaded.precision.name
        if (ratio := manifest.accuracy_ratio(loaded.precision)) is not None:
            model.status.accuracy_ratio = ratio
        model.status.host_memory_bytes = loaded.host_bytes
        model.status.device_memory_bytes = loaded.device_bytes
        model.status.max_batch_size = model.queue.costs.largest
        for batch_size, seconds in sorted(latency_s.items()):
            model.status.batch_latencies.add(batch_size=batch_size, latency_s=seconds)
        self._set_state(model, State.MODEL_STATE_READY)
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

    async def _open(self, model: Model) -> _Loaded:
        """Read, check and open an artifact.

        Raises:
            ArtifactError: the artifact is not what was published, or does not give PyTorch's answers.
            Exception: whatever ONNX Runtime raises.
        """
        model.manifest = await asyncio.to_thread(manifest.read, model.entry.folder)
        artifact = await asyncio.to_thread(loading.read, model.entry.folder)
        model.manifest, model.labels = artifact.manifest, artifact.labels

        wanted = self.model_precisions.get(model.entry.name, self.precision)
        precision = loading.choose_precision(artifact.manifest, wanted, self.device)
        batch_sizes = self.model_batch_sizes.get(model.entry.name) or default_sizes(self.max_batch_size)

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
                keep=dict if model.entry.name in self.model_batch_sizes else up_to_knee,
            )
            return _Loaded(
                network,
                precision,
                proof,
                host_bytes=max(0, self.memory.host() - host_before),
                device_bytes=max(0, self._device_bytes() - device_before),
            )

        return await asyncio.wrap_future(self.lane.call(open_and_prove))

    def _device_bytes(self) -> int:
        return 0 if self.memory.device is None else self.memory.device()

    def _set_state(self, model: Model, state: "State.ValueType") -> None:
        model.enter(state)
        self.metrics.set_state(model.entry.name, model.entry.version, state_name(state))
        if self._is_held(model):
            self.on_state(model.entry.name, state)

    def _is_held(self, model: Model) -> bool:
        return self._models.get(model.entry.name) is model


def _required(described: manifest_pb2.Manifest | None) -> manifest_pb2.Manifest:
    if described is None:
        raise RuntimeError("a loaded model has a manifest. This is a bug.")
    return described
