"""The folder of the models: listed on threads, at a bounded cost, whatever the disk does meanwhile."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from artifact import layout
from artifact.errors import printable

_MOST_WARNINGS = 100  # of one scan

Result = TypeVar("Result")


class Disk:
    """Lists a model repository, and warns of folders that hold no model; lives on the event loop."""

    def __init__(self, folder: Path, log: FilteringBoundLogger) -> None:
        self.folder = folder
        self._log = log
        self._warned: frozenset[layout.Ignored] = frozenset()
        self._scanning: asyncio.Task[layout.Scan] | None = None
        self._next: asyncio.Task[layout.Scan] | None = None

    def scan_now(self) -> layout.Scan:
        """List the repository, before the event loop has anything else to do.

        Raises:
            OSError: it cannot be read.
        """
        return self._warn(layout.scan(self.folder))

    async def scan(self, timeout_s: float) -> layout.Scan:
        """List the repository as it is now.

        Calls that come while a scan is under way share the next one, so that there is one at a time.

        Raises:
            OSError: it cannot be read.
            TimeoutError: it takes longer.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._scan_after(self._scanning))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self._next)

    async def _scan_after(self, before: "asyncio.Task[layout.Scan] | None") -> layout.Scan:
        if before is not None:
            await asyncio.wait([before])
        self._scanning, self._next = self._next, None
        return self._warn(await in_thread(lambda: layout.scan(self.folder), None))

    def _warn(self, found: layout.Scan) -> layout.Scan:
        """Warn once of each folder that is passed over, as long as it is there."""
        new = [ignored for ignored in found.ignored if ignored not in self._warned]
        self._warned = frozenset(found.ignored)
        for ignored in new[:_MOST_WARNINGS]:
            self._log.warning("ignored_folder", folder=printable(ignored.path), reason=ignored.reason)
        if len(new) > _MOST_WARNINGS:
            self._log.warning("ignored_folders", more=len(new) - _MOST_WARNINGS)
        return found


async def in_thread(function: Callable[[], Result], timeout_s: float | None) -> Result:
    """Run a function on a thread of its own, which a disk that hangs may keep for ever.

    A thread of a pool would be missing there, and the interpreter would wait for it when it ends.

    Raises:
        TimeoutError: it takes longer; the thread goes on, and its result is dropped.
        Exception: the function's own.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # the function's own None included

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - it is for whatever waits
            failure = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="disk", daemon=True).start()
    async with asyncio.timeout(timeout_s):
        return await future
