"""A state dict in a file of unknown origin.

The file is taken for hostile: nothing in it is run, and nothing as large as it merely claims to be is made.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from artifact import files, manifest
from export import memory
from export.errors import OneLineError
from zoo import weights

SUFFIXES = (".pt", ".pth", ".safetensors")
_MAX_BYTES = (1 << 31) - 1  # of a file; the largest of the catalog, VGG-19's, has 0.57 GB
_MAX_ENTRIES = 100_000  # of a zip file, one a tensor; the networks of the catalog have up to 1,000
# What reading may take beyond the process's memory so far: the tensors, and once more while they are copied.
_MEMORY_BYTES, _MEMORY_FILES = 512 << 20, 2
_WRAPPINGS = ("state_dict", "model")  # the keys under which training scripts keep it, beside an optimiser
_PARALLEL = "module."  # what DataParallel puts before every name
_NO_MEMORY = re.compile("allocate memory|can't allocate|bad_alloc", re.IGNORECASE)  # what torch says then
_WANTED = re.compile(r"\bGLOBAL ([\w.]+)")  # in torch's page of advice on a pickle that asks for code


class WeightsError(OneLineError):
    """The weights are not taken; the message says why, in one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A state dict, and the file it was in.

    Attributes:
        state: by the names of today's torchvision, on the CPU; not yet known to fit any network.
    """

    file_name: str
    sha256: str
    state: Mapping[str, Tensor]


def read(path: Path) -> Checkpoint:
    """Read a state dict from a ``.pt``, ``.pth`` or ``.safetensors`` file.

    Raises:
        WeightsError: the file cannot be read, wants to run code, or holds something else.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path.name} is none of {', '.join(SUFFIXES)}")
    try:
        file = manifest.describe_file(path, _MAX_BYTES)
    except files.TooLargeError as error:
        raise WeightsError(f"{path.name} is larger than 2 GiB") from error
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {files.reason(error)}") from error
    with memory.bounded(_MEMORY_BYTES + _MEMORY_FILES * file.size_bytes):
        _require_stored(path, file.size_bytes)
        content = _content(path)
    tensors = _tensors(content, path.name)
    # A tensor can claim any size over a few bytes of storage.
    if sum(value.numel() * value.element_size() for value in tensors.values()) > file.size_bytes:
        raise WeightsError(f"{path.name} claims more numbers than it holds")
    return Checkpoint(path.name, file.sha256, weights.modernised(tensors))


def some(names: list[str]) -> str:
    """Name a few of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _require_stored(path: Path, size_bytes: int) -> None:
    """Require that a zip file, which torch writes without compression, does not inflate.

    Raises:
        WeightsError: it would, or has very many entries.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error
    if len(entries) > _MAX_ENTRIES:
        raise WeightsError(f"{path.name} holds {len(entries):,} files; at most {_MAX_ENTRIES:,} are taken")
    if (inflated_bytes := sum(entry.file_size for entry in entries)) > size_bytes:
        raise WeightsError(
            f"{path.name} has {size_bytes:,} bytes and would inflate to {inflated_bytes:,}; "
            "torch saves tensors as they are"
        )


def _content(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action="ignore"):  # torch's, of old formats
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its message is a page of advice
        wanted = _WANTED.search(str(error))
        what = f"asks for {wanted[1]}" if wanted else "is no pickle of torch's"
        raise WeightsError(f"{path.name} {what}; only tensors are taken from a file") from error
    except MemoryError as error:
        raise WeightsError(f"{path.name} asks for more memory than a file of its size may") from error
    except Exception as error:  # KeyError, EOFError, RuntimeError, whatever the bytes lead to
        if _NO_MEMORY.search(str(error)):
            raise WeightsError(f"{path.name} asks for more memory than a file of its size may") from error
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error
    return content


def _tensors(content: object, file_name: str) -> dict[str, Tensor]:
    for key in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{file_name} holds no state dict, which is names with tensors")
    if strays := [name for name in content if not isinstance(name, str)]:
        raise WeightsError(f"{file_name} holds no state dict: {len(strays)} of its names are no text")
    tensors = dict(content)
    if strays := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{file_name} holds no state dict: {some(strays)} is no tensor")
    if odd := [name for name, value in tensors.items() if value.layout != torch.strided or value.is_meta]:
        raise WeightsError(f"{file_name}: {some(odd)} is sparse, or has no numbers")
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): value for name, value in tensors.items()}
    return tensors
