"""Regions of shared memory that clients on this machine name in their requests.

Content is copied out of and into a region by `pread` and `pwrite`, never mapped: a client that shrinks its
memory gets a refusal, where a mapping would end the process, and one that changes it changes no batch.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from server.errors import InvalidRequestError, OverloadedError, RegionExistsError, RegionNotFoundError

_FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open puts what it makes
_LONGEST_NAME = 255
_MAX_REGIONS = 1024  # each is an open file
_RETRY_DELAY_S = 1.0
_ON_THE_LOOP_BYTES = 1 << 20  # copied in 0.3 ms; more is copied by a thread

Copied = TypeVar("Copied")


@dataclass(frozen=True)
class Region:
    """A part of some shared memory.

    Attributes:
        key: name of the memory, as the client gave it.
        offset: where in that memory the region begins, in bytes.
        file: descriptor of the memory.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    file: int


@dataclass(frozen=True)
class Place:
    """A part of a region that a request names.

    Attributes:
        region: name of the region.
        offset: where in the region it begins, in bytes.
        field: the request's, for refusals.
    """

    region: str
    offset: int
    byte_size: int
    field: str


class Regions:
    """The regions that are registered; the event loop alone touches them."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        self._copying = ThreadPoolExecutor(1, thread_name_prefix="regions")  # ends with this object

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region.

        Raises:
            InvalidRequestError: it cannot be opened, or is not that large.
            RegionExistsError: the name is taken.
            OverloadedError: there are too many.
        """
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise InvalidRequestError("name", f"{len(name)} characters, not 1 to {_LONGEST_NAME}")
        if name in self._regions:
            raise RegionExistsError(f"a region called {name!r} is registered; unregister it first")
        if len(self._regions) == _MAX_REGIONS:
            raise OverloadedError(f"{_MAX_REGIONS} regions are registered, which is the most", _RETRY_DELAY_S)
        file = _open(key)
        try:
            size = os.fstat(file).st_size
            if byte_size < 1 or offset + byte_size > size:
                raise InvalidRequestError(
                    "byte_size", f"{byte_size} bytes from {offset} on do not lie in {key!r}, which has {size}"
                )
            self._regions[name] = Region(name, key, offset, byte_size, file)
        except BaseException:
            os.close(file)
            raise

    def unregister(self, name: str) -> None:
        """Close a region, or all for an empty name; one that is not there is gone already."""
        for one in [name] if name else list(self._regions):
            if (region := self._regions.pop(one, None)) is not None:
                os.close(region.file)

    def find(self, name: str) -> list[Region]:
        """Return a region, or all for an empty name.

        Raises:
            RegionNotFoundError: none has this name.
        """
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise RegionNotFoundError(f"no region is called {name[:_LONGEST_NAME]!r}")
        return [self._regions[name]]

    async def read(self, place: Place) -> memoryview:
        """Copy what is at a place of a checked size: so much memory is taken.

        Raises:
            InvalidRequestError: it does not lie in a region, or not any more.
            OverloadedError: no further file can be opened.
        """
        region, position = self.require(place)
        copy = partial(_read, position=position, size_bytes=place.byte_size)
        content = await self._copied(region, place.byte_size, copy)
        if content is None:
            raise _shrunk(place)
        return content

    async def write(self, place: Place, content: bytes) -> None:
        """Copy content to the beginning of a place, which is at least as large.

        Raises:
            InvalidRequestError: it does not lie in a region, or not any more; or there is no memory for it.
            OverloadedError: no further file can be opened.
        """
        region, position = self.require(place)
        if not await self._copied(region, len(content), partial(_write, position=position, content=content)):
            raise InvalidRequestError(place.field, "the memory of the region cannot be written")

    async def _copied(self, region: Region, size_bytes: int, copy: Callable[[int], Copied]) -> Copied:
        """Copy out of a region's file or into it, on a thread where that takes long."""
        if size_bytes <= _ON_THE_LOOP_BYTES:
            return copy(region.file)
        try:
            file = os.dup(region.file)  # the region may be unregistered meanwhile
        except OSError as error:
            raise OverloadedError("too many files are open", _RETRY_DELAY_S) from error
        job = self._copying.submit(copy, file)
        job.add_done_callback(
            lambda _: os.close(file)
        )  # also where the request was cancelled, but not before
        return await asyncio.wrap_future(job)

    def require(self, place: Place) -> tuple[Region, int]:
        """Find the region of a place, and where in the memory the place begins.

        Raises:
            InvalidRequestError: it does not lie in a region, or not any more.
        """
        region = self._regions.get(place.region)
        if region is None:
            raise InvalidRequestError(place.field, f"no region is called {place.region[:_LONGEST_NAME]!r}")
        if place.offset < 0 or place.byte_size < 0 or place.offset + place.byte_size > region.byte_size:
            raise InvalidRequestError(
                place.field,
                f"{place.byte_size} bytes from {place.offset} on do not lie in the region, "
                f"which has {region.byte_size}",
            )
        position = region.offset + place.offset
        if position + place.byte_size > os.fstat(region.file).st_size:
            raise _shrunk(place)
        return region, position


def _open(key: str) -> int:
    """Open a memory by its key, as shm_open does, but wait for nothing and follow no link."""
    name = key.removeprefix("/")
    if not name or name in {".", ".."} or "/" in name or "\0" in name or len(name) > _LONGEST_NAME:
        raise InvalidRequestError("key", "not the name of a shared memory")
    try:
        file = os.open(_FOLDER / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise InvalidRequestError("key", f"{key!r} cannot be opened: {reason}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidRequestError("key", f"{key!r} is no shared memory")
    return file


def _read(file: int, position: int, size_bytes: int) -> memoryview | None:
    content = bytearray(size_bytes)
    return memoryview(content) if os.preadv(file, [content], position) == size_bytes else None


def _write(file: int, position: int, content: bytes) -> bool:
    with suppress(OSError):  # memory is taken as it is written, and may be used up
        return os.pwrite(file, content, position) == len(content)
    return False


def _shrunk(place: Place) -> InvalidRequestError:
    return InvalidRequestError(place.field, "the region's memory is smaller than when it was registered")
