"""The models that this server holds, and their lives.

UNLOADED → LOADING → READY → DRAINING, or FAILED with a reason that a client can read. One model that
fails leaves the others serving. What is neither on disk nor in memory is not held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from artifact import files, layout
from artifact.errors import printable
from modelzoo.v1 import classifier_pb2
from server.errors import StartError
from server.models.model import Model, State, state_name
from server.models.registry import Models
from server.observability.metrics import Metrics
from server.repository.disk import Disk
from server.repository.loader import Loader

_REFRESH_S = 1.0  # that listing the models waits for the disk


@dataclass
class Repository(Models):
    """Finds, loads and hands out models.

    Attributes:
        folder: the model repository.
        loader: loads its models.
        on_state: called whenever the state of the model that is held changes, with its name and state.
        on_gone: called with the name of a model that is held no more.
        draining: takes no more requests, for any model.
        changing: names of models that are being loaded or unloaded.
    """

    folder: Path
    loader: Loader
    metrics: Metrics
    log: FilteringBoundLogger
    on_state: Callable[[str, "State.ValueType"], None]
    on_gone: Callable[[str], None]
    draining: bool = False
    changing: set[str] = field(default_factory=set)
    _models: dict[str, Model] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.disk = Disk(self.folder, self.log)
        self._not_listed = ""  # why, the last time

    def find(self) -> None:
        """Take note of the newest version of every model in the folder; load none.

        Raises:
            StartError: the folder cannot be read.
        """
        try:
            found = self.disk.scan_now()
        except OSError as error:
            raise StartError(
                f"the model repository {self.folder} cannot be read: {files.reason(error)}"
            ) from error
        for entries in found.models.values():
            self.hold(self.note(entries[0]))
        for setting in ("model_precisions", "model_batch_sizes"):
            for name in getattr(self.loader, setting).keys() - self._models.keys():
                self.log.warning("no_such_model", setting=setting, model=name)

    def note(self, entry: layout.Entry) -> Model:
        """Make a model of what lies in the folder, UNLOADED and not held."""
        status = classifier_pb2.ModelStatus(
            name=entry.name,
            version=entry.version,
            state=State.MODEL_STATE_UNLOADED,
            device=self.loader.device.name,
            max_batch_size=self.loader.max_batch_size,
        )
        return Model(entry, status, self.metrics.for_requests(entry.name))

    async def refresh(self) -> None:
        """Hold what came to the folder as UNLOADED, and drop what went; what serves goes on serving."""
        try:
            found = (await self.disk.scan(_REFRESH_S)).models
        except OSError as error:  # a TimeoutError is one
            late = isinstance(error, TimeoutError) and not error.errno
            reason = f"no answer within {_REFRESH_S:g} s" if late else files.reason(error)
            if reason != self._not_listed:  # once, however many ask
                self.log.warning("repository_not_listed", reason=reason)
            self._not_listed = reason
            return
        self._not_listed = ""
        if self.draining:
            return
        for name in found.keys() | self._models.keys():
            if name not in self.changing:
                self._settle(name, found.get(name, ()))

    def _settle(self, name: str, entries: Sequence[layout.Entry]) -> None:
        """Hold a model that does not serve as the disk has it."""
        held = self._models.get(name)
        if held is not None and held.status.state not in (
            State.MODEL_STATE_UNLOADED,
            State.MODEL_STATE_FAILED,
        ):
            return
        if not entries:
            self.forget(name)
        elif held is None or (held.status.state == State.MODEL_STATE_UNLOADED and held.entry != entries[0]):
            self.hold(self.note(entries[0]))

    def hold(self, model: Model) -> None:
        """Answer requests for a model's name with it, from now on."""
        before = self._models.get(model.entry.name)
        self._models[model.entry.name] = model
        if before is not None and before.submit is None:
            self._forget_version(before)
        self._set_state(model, model.status.state)

    def forget(self, name: str) -> None:
        """Hold a model no more, and drop all that is reported of it."""
        if self._models.pop(name, None) is not None:
            self.metrics.forget_model(name)
            self.on_gone(name)

    def fall_back(self, model: Model, failed: Model) -> None:
        """Report that a model which serves is not the newest version, because that failed."""
        model.status.reason = printable(
            f"serving version {model.entry.version}: "
            f"version {failed.entry.version} failed: {failed.status.reason}"
        )
        if not self._is_held(failed):
            self._forget_version(failed)
        self._set_state(model, model.status.state)
        self.log.error(
            "older_version_serves",
            model=model.entry.name,
            version=model.entry.version,
            failed_version=failed.entry.version,
            reason=failed.status.reason,
        )

    def is_newest(self, model: Model) -> None:
        """Report that no newer version of a model which serves is there any more."""
        if model.status.reason:
            model.status.reason = ""
            self._set_state(model, model.status.state)

    def drain(self) -> None:
        """Take no more requests, for any model."""
        self.draining = True
        for model in self._models.values():
            if model.is_ready:
                self._set_state(model, State.MODEL_STATE_DRAINING)

    async def load(self, model: Model) -> None:
        """Load a model: in the end it is READY, or FAILED."""
        await self.loader.load(model, self._set_state)

    async def free(self, model: Model) -> None:
        """Wait until no request holds a model any more, and take it out of memory."""
        if model.submit is not None:
            self._set_state(model, State.MODEL_STATE_DRAINING)
            await model.holders.none.wait()
            if self._is_held(model):
                self.metrics.forget_queue(model.entry.name)
            await self.loader.unload(model)
        self._forget_version(model)

    def _set_state(self, model: Model, state: "State.ValueType") -> None:
        if state not in (State.MODEL_STATE_READY, State.MODEL_STATE_FAILED):
            model.status.reason = ""
        model.enter(state)
        if not self._is_another_held(model):
            self.metrics.models.set_state(model.entry.name, model.entry.version, state_name(state))
        if self._is_held(model):
            self.metrics.models.set_fallback(
                model.entry.name, fell_back=model.is_ready and bool(model.status.reason)
            )
            self.on_state(model.entry.name, state)

    def _forget_version(self, model: Model) -> None:
        if not self._is_another_held(model):
            self.metrics.models.forget_version(model.entry.name, model.entry.version)

    def _is_another_held(self, model: Model) -> bool:
        """Return whether the metrics of a model's version are those of another loading of it."""
        held = self._models.get(model.entry.name)
        return held is not None and held is not model and held.entry.version == model.entry.version

    def _is_held(self, model: Model) -> bool:
        return self._models.get(model.entry.name) is model
