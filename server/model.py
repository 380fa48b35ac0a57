"""One model of the repository, as it stands now."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from artifact import layout
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.errors import ModelNotReadyError
from server.in_flight import InFlight
from server.inference import Submit
from server.metrics import RequestMetrics
from server.statistics import Statistics

if TYPE_CHECKING:
    from server.batching.queues import ModelQueue

State = classifier_pb2.ModelState


@dataclass(frozen=True)
class ReadyModel:
    """A model that serves: everything that classifying needs.

    Attributes:
        submit: takes its images.
        max_queue_size: waiting images of one priority before refusal.
        in_flight: counts the requests that hold this.
    """

    status: classifier_pb2.ModelStatus
    metrics: RequestMetrics
    statistics: Statistics
    manifest: manifest_pb2.Manifest
    labels: tuple[str, ...]
    submit: Submit
    max_queue_size: int
    in_flight: InFlight


@dataclass
class Model:
    """One version of one model, whatever its state.

    Attributes:
        status: what a client may know.
        manifest: absent until it was read.
        labels: K of them; empty until they were read.
        queue: of its images; absent until READY, and in a front end.
        submit: takes its images; absent until READY.
        max_queue_size: waiting images of one priority before refusal.
        in_flight: counts the requests that hold it.
    """

    entry: layout.Entry
    status: classifier_pb2.ModelStatus
    metrics: RequestMetrics
    statistics: Statistics = field(default_factory=Statistics)
    manifest: manifest_pb2.Manifest | None = None
    labels: tuple[str, ...] = ()
    queue: "ModelQueue | None" = None
    submit: Submit | None = None
    max_queue_size: int = 0
    in_flight: InFlight = field(default_factory=lambda: InFlight(0))
    _serving: ReadyModel | None = field(init=False, default=None)

    @property
    def is_ready(self) -> bool:
        """Tell whether it serves."""
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
                self.in_flight,
            )

    def ready(self) -> ReadyModel:
        """Give what classifying needs.

        Raises:
            ModelNotReadyError: it is loading, draining, unloaded or failed.
        """
        if self._serving is None:
            reason = f": {self.status.reason}" if self.status.reason else ""
            raise ModelNotReadyError(f"{self.entry.name} is {state_name(self.status.state)}{reason}")
        return self._serving


def state_name(state: "State.ValueType") -> str:
    """Write a state as people do: ``ready``."""
    return State.Name(state).removeprefix("MODEL_STATE_").lower()


def accuracy_text(status: classifier_pb2.ModelStatus) -> str:
    """Write a model's accuracy as people do: ``99.44 %``, or ``not measured``."""
    return f"{status.accuracy_ratio:.2%}" if status.HasField("accuracy_ratio") else "not measured"
