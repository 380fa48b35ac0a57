"""The models of one process, by their names: what is asked for must be there, and serve."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from modelzoo.v1 import open_inference_pb2
from server.errors import ModelNotFoundError
from server.models.model import Model, ReadyModel

# Gives the statistics of models: what they have done, and take.
ModelStatistics = Callable[[Sequence[ReadyModel]], Awaitable[Sequence[open_inference_pb2.ModelStatistics]]]


class ModelControl(Protocol):
    """Loads and unloads models: the engine's `Lifecycle`, or in a front end its `EngineClient`."""

    async def load(self, name: str) -> None:
        """Load the newest version of a model; see `Lifecycle.load`."""

    async def unload(self, name: str) -> None:
        """Let a model answer what it accepted, and free it; see `Lifecycle.unload`."""


class Models:
    """Finds models: those of the repository, or in a front end those that the engine sent."""

    _models: dict[str, Model]

    def __iter__(self) -> Iterator[Model]:
        """Yield the models in the order of their names."""
        return iter([self._models[name] for name in sorted(self._models)])

    async def refresh(self) -> None:
        """Take note of models that came or went on disk; in vain where that takes too long."""

    def held(self, name: str) -> Model | None:
        """Find the model of a name, if there is one."""
        return self._models.get(name)

    def get(self, name: str, version: int | None = None) -> Model:
        """Find a model, whatever its state; any version (None) means the one that this server holds.

        Raises:
            ModelNotFoundError: there is none of that name or version.
        """
        model = self._models.get(name)
        if model is None:
            raise ModelNotFoundError(f"no model is called {shown(name)}")
        if version is not None and version != model.entry.version:
            raise ModelNotFoundError(f"{name} has no version {version} here, only {model.entry.version}")
        return model

    def ready(self, name: str, version: int | None = None) -> ReadyModel:
        """Find a model that serves.

        Raises:
            ModelNotFoundError: there is none of that name or version.
            ModelNotReadyError: it is loading, draining, unloaded or failed.
        """
        return self.get(name, version).ready()


def shown(name: str) -> str:
    """Quote a name that a client made up; the status of a call has room for some kilobytes only."""
    longest = 200
    return repr(name) if len(name) <= longest else repr(name[:longest]) + "…"


async def statistics_here(models: Sequence[ReadyModel]) -> list[open_inference_pb2.ModelStatistics]:
    """Return the statistics of models where no other process serves them, too."""
    return [model.statistics_message() for model in models]
