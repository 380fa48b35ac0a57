"""Why permissions forbid to read what is on disk: to which user, and what it would take."""

import os
import stat
from pathlib import Path

READ_FILE, READ_FOLDER = "r--", "r-x"  # as `ls` writes it


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
