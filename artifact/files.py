"""Files of an artifact, opened and read at a bounded cost, and why they cannot be read."""

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from artifact.errors import first_line

_HASH_CHUNK_BYTES = 1 << 20
READ_FILE, READ_FOLDER = "r--", "r-x"  # as `ls` writes it


class TooLargeError(OSError):
    """The file is larger than it may be; the message says how large, and what is allowed."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(errno.EFBIG, f"{size_bytes} bytes, at most {limit_bytes} allowed")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for the other end of a pipe or for a device.

    A symbolic link is followed: what is checked is what was opened, whatever takes its place meanwhile.

    Raises:
        OSError: it cannot be opened, or is something else than a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def size_bytes(path: Path) -> int:
    """Return the size of a regular file, as its file system states it.

    Raises:
        OSError: it cannot be opened, or is something else than a regular file.
    """
    with open_regular(path) as stream:
        return os.fstat(stream.fileno()).st_size


def read(path: Path, limit_bytes: int) -> bytes:
    """Read a whole file, unless it is larger than allowed.

    Raises:
        TooLargeError: it is larger; nothing was read.
        OSError: it cannot be read, or is something else than a regular file.
    """
    with open_regular(path) as stream:
        if (stated := os.fstat(stream.fileno()).st_size) > limit_bytes:
            raise TooLargeError(stated, limit_bytes)
        content = stream.read(stated + 1)
    if len(content) != stated:  # files under /proc state no size at all
        raise OSError(errno.EINVAL, "its size changed while it was read")
    return content


def sha256(path: Path, limit_bytes: int) -> tuple[str, int]:
    """Hash a file, unless it is larger than allowed.

    Returns:
        64 hexadecimal digits, and the size in bytes.

    Raises:
        TooLargeError: it is larger; no more than the limit was read.
        OSError: it cannot be read, or is something else than a regular file.
    """
    digest = hashlib.sha256()
    count = 0
    with open_regular(path) as stream:
        if (stated := os.fstat(stream.fileno()).st_size) > limit_bytes:
            raise TooLargeError(stated, limit_bytes)
        while chunk := stream.read(min(_HASH_CHUNK_BYTES, limit_bytes + 1 - count)):
            digest.update(chunk)
            count += len(chunk)
            if count > limit_bytes:
                raise TooLargeError(count, limit_bytes)
    return digest.hexdigest(), count


def reason(error: Exception) -> str:
    """Describe an error in one line and without a path; with the user id, where access was denied."""
    if isinstance(error, PermissionError):
        return f"permission denied for uid {os.geteuid()}, which needs read access to it and its folders"
    return getattr(error, "strerror", None) or first_line(error)


def denied(path: Path, needed: str, shown: str | None = None) -> str:
    """Describe, in one line, a file or folder that this process may not read.

    Args:
        needed: `READ_FILE` or `READ_FOLDER`.
        shown: instead of the path, where the reader must not learn how this machine is laid out.
    """
    line = f"cannot read {shown or path}: permission denied for uid {os.geteuid()}, gid {os.getegid()}"
    try:
        found = path.stat()
    except OSError:  # a folder above it
        return f"{line}; it needs {needed}, and the folders above it --x"
    owner = f"{stat.filemode(found.st_mode)} of {found.st_uid}:{found.st_gid}"
    return f"{line}; it needs {needed}, and is {owner}"


def why_unreadable(folder: Path) -> str:
    """Describe why a folder's content may not be read; nothing where it may, or where there is no folder."""
    try:
        folder.stat()
    except PermissionError:  # a folder above it
        return denied(folder, READ_FOLDER)
    except OSError:
        return ""
    may = os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
    return "" if may else denied(folder, READ_FOLDER)
