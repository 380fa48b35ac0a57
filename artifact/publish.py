"""Writes an artifact so that it is there whole or not at all.

The files are written into a temporary folder beside their place; one rename makes them a version, which
never changes afterwards. A process that dies half-way leaves a dot-folder that readers pass over.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifact import layout, manifest
from artifact.errors import ManifestError
from modelzoo.v1 import manifest_pb2

_STAGING_PREFIX = ".staging-"


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Path]:
    """Give a temporary folder to fill; whatever `publish` has not taken is removed on the way out.

    Raises:
        ManifestError: ``name`` is not a model's name.
        OSError: the repository cannot be written.
    """
    if not layout.MODEL_NAME.fullmatch(name):
        raise ManifestError(f"{name!r} is not a model's name: lower case letters, digits, '-', '_' and '.'")
    (repository / name).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=repository / name))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, description: manifest_pb2.Manifest) -> Path:
    """Number a filled staging folder, write its manifest and rename it into its place.

    Sets ``description.version``. Publishers of the same model wait for each other, so every one gets a
    version of its own.

    Returns:
        The published folder.

    Raises:
        ManifestError: the manifest is not valid, or another model's.
        DamagedFileError: the folder lacks a file that the manifest names.
        OSError: the repository cannot be written.
    """
    model_folder = folder.parent
    if description.name != model_folder.name:
        raise ManifestError(f"{description.name!r} cannot be published as {model_folder.name!r}")
    model_folder_fd = os.open(model_folder, os.O_RDONLY)
    try:
        fcntl.flock(model_folder_fd, fcntl.LOCK_EX)
        description.version = max(layout.versions(model_folder), default=0) + 1
        manifest.write(description, folder)
        manifest.check_files(description, folder)
        folder.chmod(0o755)  # mkdtemp's 0700 would hide it from a server that runs as somebody else
        _flush(folder)
        published = model_folder / str(description.version)
        folder.rename(published)
        os.fsync(model_folder_fd)
    finally:
        os.close(model_folder_fd)  # gives the lock back
    return published


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the rename does, so that a power cut leaves no hollow version."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
