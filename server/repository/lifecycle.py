"""Models come and go while the server runs, one change after the other.

A change that a client asked for is finished even if that client is gone: half of one would leave a model
that is never loaded nor freed.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from artifact import files, layout
from server.errors import ModelNotFoundError, ModelNotReadyError, ModelZooError
from server.models.model import Model, State
from server.models.registry import shown
from server.repository import loading
from server.repository.disk import in_thread
from server.repository.repository import Repository

_MOST_OLDER = 2  # versions that are tried where the newest fails; each may take a full load's time
_SIDE_BY_SIDE = 4  # models that are read at the same time: a slow disk under one leaves three
_COST_S = 1.0  # that finding out the size of every model may take, before the first is loaded
_SCAN_S = 10.0  # that listing the repository may take before a change is refused


class Lifecycle:
    """Loads, replaces and unloads the models of a repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def load_all(self) -> None:
        """Load every model that was found.

        Files are read side by side, the smallest model's first; sessions are opened one after the other, so
        that memory can be told apart.
        """
        async with self._changing:
            models = list(self._repository)
            costs = await asyncio.gather(*map(self._cost, models))
            reading = asyncio.Semaphore(_SIDE_BY_SIDE)

            async def load(model: Model) -> None:
                async with reading:
                    await self._load_newest(model)

            with self._marked(*(model.entry.name for model in models)):
                async with asyncio.TaskGroup() as tasks:
                    for _, model in sorted(zip(costs, models, strict=True), key=lambda pair: pair[0]):
                        tasks.create_task(load(model))

    async def load(self, name: str) -> None:
        """Load the newest version of a model, unless that serves.

        An older version answers until the new one is READY, and then drains; if the new one fails, it goes
        on. Where none answers and the newest fails, the newest that proves itself serves.

        Raises:
            ModelNotFoundError: there is none of that name.
            ModelNotReadyError: its newest version could not be loaded, or the server is stopping.
        """
        await asyncio.shield(self._start(self._load(name)))

    async def unload(self, name: str) -> None:
        """Let a model answer what it accepted, and free it; one that is not on disk any more is gone then.

        Raises:
            ModelNotFoundError: there is none of that name.
            ModelNotReadyError: the server is stopping.
        """
        await asyncio.shield(self._start(self._unload(name)))

    async def _load(self, name: str) -> None:
        async with self._changing:
            self._require_running()
            with self._marked(name):
                entries = await self._entries(name)
                held = self._repository.held(name)
                if not entries:
                    if held is not None and not held.is_ready:
                        self._repository.forget(name)
                    raise ModelNotFoundError(f"the repository has no model called {shown(name)}")
                if held is None or not held.is_ready:
                    await self._load_first(self._repository.note(entries[0]))
                elif held.entry.version == entries[0].version:
                    self._repository.is_newest(held)
                else:
                    await self._replace(held, self._repository.note(entries[0]))

    async def _load_first(self, newest: Model) -> None:
        """Load a model that does not serve yet.

        Raises:
            ModelNotReadyError: the newest version could not be loaded; an older one may serve.
        """
        self._repository.hold(newest)
        await self._load_newest(newest)
        held = self._repository.get(newest.entry.name)
        held.ready()
        if held is not newest:
            raise ModelNotReadyError(f"{held.entry.name} is {held.status.reason}")

    async def _replace(self, held: Model, newest: Model) -> None:
        """Load another version of a model that serves.

        Raises:
            ModelNotReadyError: it could not be loaded; the one that serves goes on.
        """
        await self._repository.load(newest)
        if not newest.is_ready:
            self._repository.fall_back(held, newest)
        newest.ready()
        self._repository.hold(newest)
        self._start(self._repository.free(held))

    async def _load_newest(self, newest: Model) -> None:
        """Load a model that is held; where that fails, the newest older version that proves itself."""
        await self._repository.load(newest)
        if newest.status.state != State.MODEL_STATE_FAILED:
            return
        try:
            entries = await self._entries(newest.entry.name)
        except ModelNotReadyError:  # why it failed is logged already
            return
        older = [entry for entry in entries if entry.version < newest.entry.version]
        for entry in older[:_MOST_OLDER]:
            model = self._repository.note(entry)
            self._repository.hold(model)
            await self._repository.load(model)
            if model.is_ready:
                self._repository.fall_back(model, newest)
                return
        self._repository.hold(newest)

    async def _unload(self, name: str) -> None:
        async with self._changing:
            self._require_running()
            with self._marked(name):
                held = self._repository.get(name)
                await self._repository.free(held)
                try:
                    entries = await self._entries(name)
                except ModelNotReadyError:  # the disk does not answer now
                    entries = [held.entry]
                if entries:
                    self._repository.hold(self._repository.note(entries[0]))
                else:
                    self._repository.forget(name)

    async def _entries(self, name: str) -> Sequence[layout.Entry]:
        """List the versions of a model on disk, the newest first.

        Raises:
            ModelNotReadyError: the disk does not answer.
        """
        try:
            found = await self._repository.disk.scan(_SCAN_S)
        except TimeoutError as error:
            reason = f"no answer within {_SCAN_S:g} s"
            raise ModelNotReadyError(f"the model repository cannot be listed: {reason}") from error
        except OSError as error:
            raise ModelNotReadyError(
                f"the model repository cannot be listed: {files.reason(error)}"
            ) from error
        return found.models.get(name, ())

    async def _cost(self, model: Model) -> int:
        """Return how many bytes loading a model reads; 0 where that is not known soon."""
        try:
            return await in_thread(partial(loading.cost, model.entry.folder), _COST_S)
        except Exception:  # noqa: BLE001 - loading it reports it
            return 0

    @contextmanager
    def _marked(self, *names: str) -> Iterator[None]:
        """Keep models as they are while they change, whatever the disk says."""
        self._repository.changing.update(names)
        try:
            yield
        finally:
            self._repository.changing.difference_update(names)

    def _require_running(self) -> None:
        if self._repository.draining:
            raise ModelNotReadyError("the server is stopping")

    def _start(self, change: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # Looked at here, because the caller may be gone, or there was none.
        if not isinstance(error, ModelZooError):
            self._repository.log.error("change_failed", exc_info=error)
