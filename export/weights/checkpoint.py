"""A state dict in a file of unknown origin.

The file is taken for hostile: nothing in it is run, and nothing as large as it merely claims to be is made.
"""

import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from artifact import files, manifest
from export import memory
from export.weights import state_dict, unpickling
from export.weights.state_dict import StateDict, WeightsError
from zoo import weights

SUFFIXES = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors")  # in any case
_MAX_BYTES = (1 << 31) - 1  # of a file; the largest of the catalog, VGG-19's, has 0.57 GB
_MAX_ENTRIES = 100_000  # of a zip file, one a tensor; the networks of the catalog have up to 1,000
# What reading may take beyond the process's memory so far: the tensors, and once more while they are copied.
_MEMORY_BYTES, _MEMORY_FILES = 512 << 20, 2
_SCRIPTED = re.compile(r"[^/]*/(constants\.pkl|code/.*)")  # what only torch.jit.save writes
_MODULE_STATE = (b"_parameters", b"_buffers", b"_modules")  # what every pickled nn.Module has as attributes
_PICKLE_BYTES = 64 << 20  # of the part without numbers; a network's has kilobytes
_NO_MEMORY = re.compile("allocate memory|can't allocate|bad_alloc", re.IGNORECASE)  # what torch says then


@dataclass(frozen=True)
class Checkpoint:
    """A state dict, and the file it was in.

    Attributes:
        state: by the names of today's torchvision, on the CPU; not yet known to fit any network.
        found: where in the file it was; its tensors have their names there, auxiliary heads are among them.
    """

    file_name: str
    sha256: str
    state: Mapping[str, Tensor]
    found: StateDict


def stem(path: Path) -> str:
    """Return a file's name without the suffix of a checkpoint."""
    name = path.name.lower()
    return name.removesuffix(
        max((end for end in SUFFIXES if name.endswith(end)), key=len, default=path.suffix)
    )


def read(path: Path, wanted: Collection[str] = ()) -> Checkpoint:
    """Read a state dict from a file with one of `SUFFIXES`.

    Args:
        wanted: names of a network's tensors; see `state_dict.find`.

    Raises:
        WeightsError: the file cannot be read, wants to run code, or holds something else.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise WeightsError(f"{path.name} is none of {', '.join(SUFFIXES)}")
    try:
        file = manifest.describe_file(path, _MAX_BYTES)
    except files.TooLargeError as error:
        raise WeightsError(f"{path.name} is larger than 2 GiB") from error
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {files.reason(error)}") from error
    with memory.bounded(_MEMORY_BYTES + _MEMORY_FILES * file.size_bytes):
        _require_stored(path, file.size_bytes)
        content, stand_ins = _content(path)
    try:
        found = state_dict.find(content, path.name, wanted)
    except WeightsError as error:
        if stand_ins and _holds_module(path):
            raise _module(path, stand_ins[0]) from error
        raise
    # A tensor can claim any size over a few bytes of storage.
    if sum(value.numel() * value.element_size() for value in found.tensors.values()) > file.size_bytes:
        raise WeightsError(f"{path.name} claims more numbers than it holds")
    return Checkpoint(path.name, file.sha256, weights.modernised(found.tensors), found)


def _require_stored(path: Path, size_bytes: int) -> None:
    """Require that a zip file, which torch writes without compression, holds data and does not inflate.

    Raises:
        WeightsError: it would, has very many entries, or is of TorchScript.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error
    if any(_SCRIPTED.fullmatch(entry.filename) for entry in entries):
        raise WeightsError(
            f"{path.name} is a TorchScript archive, not a state dict: save model.state_dict() instead"
        )
    if len(entries) > _MAX_ENTRIES:
        raise WeightsError(f"{path.name} holds {len(entries):,} files; at most {_MAX_ENTRIES:,} are taken")
    if (inflated_bytes := sum(entry.file_size for entry in entries)) > size_bytes:
        raise WeightsError(
            f"{path.name} has {size_bytes:,} bytes and would inflate to {inflated_bytes:,}; "
            "torch saves tensors as they are"
        )


def _content(path: Path) -> tuple[object, tuple[str, ...]]:
    """Return what a file holds, and the names of classes of which nothing was made."""
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path), ()
        return unpickling.load(path)
    except unpickling.NamesCodeError as error:
        if _holds_module(path):
            raise _module(path, error.name) from error
        raise WeightsError(
            f"{path.name} asks for {error.name}; only tensors are taken from a file"
        ) from error
    except pickle.UnpicklingError as error:  # its message is a page of advice
        raise WeightsError(
            f"{path.name} is no pickle of torch's; only tensors are taken from a file"
        ) from error
    except MemoryError as error:
        raise WeightsError(f"{path.name} asks for more memory than a file of its size may") from error
    except Exception as error:  # KeyError, EOFError, RuntimeError, whatever the bytes lead to
        if _NO_MEMORY.search(str(error)):
            raise WeightsError(f"{path.name} asks for more memory than a file of its size may") from error
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: a length of 8 bytes, then JSON."""
    with files.open_regular(path) as stream:
        return stream.read(9)[8:] == b"{"


def _module(path: Path, wanted: str) -> WeightsError:
    return WeightsError(
        f"{path.name} holds a whole pickled nn.Module, which is code (it asks for {wanted}): "
        "save model.state_dict() instead"
    )


def _holds_module(path: Path) -> bool:
    """Return whether a file names what every pickled ``nn.Module`` has.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            with files.open_regular(path) as stream:
                content = stream.read(_PICKLE_BYTES)
        else:
            with zipfile.ZipFile(path) as archive:
                [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                with archive.open(name) as entry:
                    content = entry.read(_PICKLE_BYTES)
    except Exception as error:
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error
    return all(name in content for name in _MODULE_STATE)
