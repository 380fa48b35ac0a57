"""Writes an artifact so that it is there whole or not at all.

The files are written into a temporary folder beside their place; one rename makes them a version, which
never changes afterwards. A process that dies half-way leaves a dot-folder that readers pass over and the
next publisher of the model removes. A writer holds a lock on its folder as long as it lives, so nothing
removes the folder of one that does.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from artifact import layout, manifest
from artifact.errors import ManifestError
from modelzoo.v1 import manifest_pb2

_STAGING_PREFIX = ".staging-"


def require_name(name: str) -> None:
    """Insist that a model may be called so.

    Raises:
        ManifestError: it may not.
    """
    if not layout.MODEL_NAME.fullmatch(name):
        raise ManifestError(f"{name!r} is not a model's name: lower case letters, digits, '-', '_' and '.'")


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Path]:
    """Return a temporary folder to fill; whatever `publish` has not taken is removed on the way out.

    So is, on the way in, what publishers of this model left when they were killed.

    Raises:
        ManifestError: ``name`` is not a model's name.
        OSError: the repository cannot be written.
    """
    require_name(name)
    model_folder = repository / name
    model_folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with _locked(model_folder):  # so that nothing sweeps between the folder's birth and its lock
            _sweep(model_folder)
            folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=model_folder))
            held.enter_context(_locked(folder))
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
    with _locked(model_folder) as model_folder_fd:
        description.version = max(layout.versions(model_folder), default=0) + 1
        manifest.write(description, folder)
        manifest.check_files(description, folder)
        folder.chmod(0o755)  # mkdtemp's 0700 would hide it from a server that runs as another user
        _flush(folder)
        published = model_folder / str(description.version)
        folder.rename(published)
        os.fsync(model_folder_fd)
    return published


@contextmanager
def _locked(folder: Path, mode: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold a folder, and give its descriptor. However the process ends, the lock ends with it.

    Raises:
        OSError: it is no folder, or with `LOCK_NB` in ``mode`` another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, mode)
        yield descriptor
    finally:
        os.close(descriptor)  # gives the lock back


def _sweep(model_folder: Path) -> None:
    """Remove the staging folders that are not locked; the model's own lock must be held."""
    for left in model_folder.glob(f"{_STAGING_PREFIX}*"):
        # Locked, of another user, or just gone: none of it is this publisher's.
        with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(left, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the rename does, so that a power cut leaves no hollow version."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
