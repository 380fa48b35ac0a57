"""One model of the repository, as it stands now."""

import asyncio
from dataclasses import dataclass, field

from artifact import layout
from modelzoo.v1 import classifier_pb2, manifest_pb2, open_inference_pb2
from server.errors import ModelNotReadyError
from server.inference import Submit
from server.observability.metrics import RequestMetrics
from server.observability.statistics import Statistics

State = classifier_pb2.ModelState


class Holders:
    """Counts the requests that hold a model.

    Attributes:
        none: set while there is no such request.
    """

    def __init__(self) -> None:
        self._count = 0
        self.none = asyncio.Event()
        self.none.set()

    def acquire(self) -> None:
        """Hold the model; each holder must `release` it once."""
        self._count += 1
        self.none.clear()

    def release(self) -> None:
        """Hold the model no more."""
        self._count -= 1
        if not self._count:
            self.none.set()


@dataclass(frozen=True, eq=False)
class ReadyModel:
    """A model that serves: everything that classifying needs.

    Attributes:
        submit: takes its images.
        max_queue_size: waiting images of one priority before refusal.
        holders: the requests that hold it.
    """

    status: classifier_pb2.ModelStatus
    metrics: RequestMetrics
    statistics: Statistics
    manifest: manifest_pb2.Manifest
    labels: tuple[str, ...]
    submit: Submit
    max_queue_size: int
    holders: Holders

    @property
    def cuda_ordinal(self) -> int | None:
        """The number of the CUDA device that serves it; None for the CPU."""
        _, _, ordinal = self.status.device.partition(":")
        return int(ordinal) if ordinal else None

    def statistics_message(self) -> open_inference_pb2.ModelStatistics:
        """Return what it has done, and what it takes, as the Open Inference Protocol writes it."""
        message = self.statistics.message()
        message.name, message.version = self.status.name, str(self.status.version)
        message.memory_usage.add(type="CPU", byte_size=self.status.host_memory_bytes)
        if self.cuda_ordinal is not None:
            message.memory_usage.add(
                type="GPU", id=self.cuda_ordinal, byte_size=self.status.device_memory_bytes
            )
        return message


@dataclass(eq=False)
class Model:
    """One version of one model, whatever its state.

    Attributes:
        status: what a client may know.
        manifest: absent until it was read.
        labels: K of them; empty until they were read.
        submit: takes its images; absent while it is not loaded.
        max_queue_size: waiting images of one priority before refusal.
        holders: the requests that hold it.
    """

    entry: layout.Entry
    status: classifier_pb2.ModelStatus
    metrics: RequestMetrics
    statistics: Statistics = field(default_factory=Statistics)
    manifest: manifest_pb2.Manifest | None = None
    labels: tuple[str, ...] = ()
    submit: Submit | None = None
    max_queue_size: int = 0
    holders: Holders = field(default_factory=Holders)
    _serving: ReadyModel | None = field(init=False, default=None)

    @property
    def is_ready(self) -> bool:
        """Return whether it serves."""
        return self._serving is not None

    def enter(self, state: "State.ValueType") -> None:
        """Go into a state; into READY with a manifest, labels and what takes images."""
        self.status.state = state
        self._serving = None
        if state == State.MODEL_STATE_READY:
            if self.manifest is None or self.submit is None:
                raise RuntimeError("a model that is READY has a manifest, and takes images. This is a bug.")
            self._serving = ReadyModel(
                self.status,
                self.metrics,
                self.statistics,
                self.manifest,
                self.labels,
                self.submit,
                self.max_queue_size,
                self.holders,
            )

    def ready(self) -> ReadyModel:
        """Return what classifying needs.

        Raises:
            ModelNotReadyError: it is loading, draining, unloaded or failed.
        """
        if self._serving is None:
            reason = f": {self.status.reason}" if self.status.reason else ""
            raise ModelNotReadyError(f"{self.entry.name} is {state_name(self.status.state)}{reason}")
        return self._serving


def state_name(state: "State.ValueType") -> str:
    """Write a state in lower case: ``ready``."""
    return State.Name(state).removeprefix("MODEL_STATE_").lower()


def accuracy_text(status: classifier_pb2.ModelStatus) -> str:
    """Write a model's accuracy in per cent: ``99.44 %``, or ``not measured``."""
    return f"{status.accuracy_ratio:.2%}" if status.HasField("accuracy_ratio") else "not measured"
