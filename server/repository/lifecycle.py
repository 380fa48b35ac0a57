"""Models come and go while the server runs, one change after the other.

A change that a client asked for is finished even if that client is gone: half of one would leave a model
that nobody loads and nobody frees.
"""

import asyncio
from collections.abc import Coroutine

from artifact import layout
from server.errors import ModelNotFoundError, ModelNotReadyError
from server.models import shown
from server.repository.repository import Repository


class Lifecycle:
    """Loads, replaces and unloads the models of a repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def load_all(self) -> None:
        """Load every model that was found, one after the other, so that memory can be told apart."""
        async with self._changing:
            for model in self._repository:
                await self._repository.load(model)

    async def load(self, name: str) -> None:
        """Load the newest version of a model, unless that serves.

        An older version answers until the new one is READY, and then drains; if the new one fails, it goes
        on.

        Raises:
            ModelNotFoundError: there is none of that name.
            ModelNotReadyError: it could not be loaded, or the server is stopping.
        """
        await asyncio.shield(self._start(self._load(name)))

    async def unload(self, name: str) -> None:
        """Let a model answer what it accepted, and free it.

        Raises:
            ModelNotFoundError: there is none of that name.
            ModelNotReadyError: the server is stopping.
        """
        await asyncio.shield(self._start(self._unload(name)))

    async def _load(self, name: str) -> None:
        async with self._changing:
            self._require_running()
            found = await asyncio.to_thread(lambda: list(layout.newest(self._repository.folder)))
            newest = next((entry for entry in found if entry.name == name), None)
            if newest is None:
                raise ModelNotFoundError(f"the repository has no model called {shown(name)}")
            model, held = self._repository.note(newest), self._repository.held(name)
            if held is None or not held.is_ready:
                self._repository.hold(model)
            elif held.entry.version == newest.version:
                return
            await self._repository.load(model)
            model.ready()
            self._repository.hold(model)
            if held is not None and held.entry.version != newest.version:
                self._start(self._repository.free(held))

    async def _unload(self, name: str) -> None:
        async with self._changing:
            self._require_running()
            held = self._repository.get(name)
            await self._repository.free(held)
            self._repository.hold(self._repository.note(held.entry))

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
        if not task.cancelled():
            task.exception()  # looked at here, because whoever asked may be gone
