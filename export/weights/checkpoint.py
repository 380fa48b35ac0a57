"""A state dict in a file of unknown origin.

The file is taken for hostile: nothing in it is run, and nothing as large as it merely claims to be is made.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import safetensors.torch
import torch
from torch import Tensor

from artifact import files, manifest
from export import memory
from export.weights import state_dict
from export.weights.state_dict import StateDict, WeightsError
from zoo import weights

SUFFIXES = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors")  # in any case
_MAX_BYTES = (1 << 31) - 1  # of a file; the largest of the catalog, VGG-19's, has 0.57 GB
_MAX_ENTRIES = 100_000  # of a zip file, one a tensor; the networks of the catalog have up to 1,000
# What reading may take beyond the process's memory so far: the tensors, and once more while they are copied.
_MEMORY_BYTES, _MEMORY_FILES = 512 << 20, 2
# What training scripts keep beside the weights: their arguments, and accuracies as NumPy computed them. For
# these names, and no others, an `_Inert` is made: NumPy's own would trust what a pickle says of their memory.
_BESIDE_WEIGHTS = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
    *(
        f"pathlib{inner}.{kind}Path"
        for inner in ("", "._local")
        for kind in ("Posix", "PurePosix", "Windows")
    ),
)
_SCRIPTED = re.compile(r"[^/]*/(constants\.pkl|code/.*)")  # what only torch.jit.save writes
_MODULE_STATE = (b"_parameters", b"_buffers", b"_modules")  # what every pickled nn.Module has as attributes
_PICKLE_BYTES = 64 << 20  # of the part without numbers; a network's has kilobytes
_NO_MEMORY = re.compile("allocate memory|can't allocate|bad_alloc", re.IGNORECASE)  # what torch says then
_WANTED = re.compile(r"\bGLOBAL ([\w.]+)")  # in torch's page of advice on a pickle that asks for code


class _Inert:
    """Stands for an object beside the weights: it takes what it would be made of, and forgets it."""

    def __new__(cls, *_: object) -> Self:
        """Make it of anything; an ``__init__`` would have to agree."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Do nothing."""

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""


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


def read(path: Path) -> Checkpoint:
    """Read a state dict from a file with one of `SUFFIXES`.

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
        content = _content(path)
    found = state_dict.find(content, path.name)
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


def _content(path: Path) -> object:
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        inert: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
            (_Inert, name) for name in _BESIDE_WEIGHTS
        ]
        # The warnings are torch's, of old formats.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(inert):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its message is a page of advice
        wanted = _WANTED.search(str(error))
        if wanted and _holds_module(path):
            raise WeightsError(
                f"{path.name} holds a whole pickled nn.Module, which is code (it asks for {wanted[1]}): "
                "save model.state_dict() instead"
            ) from error
        what = f"asks for {wanted[1]}" if wanted else "is no pickle of torch's"
        raise WeightsError(f"{path.name} {what}; only tensors are taken from a file") from error
    except MemoryError as error:
        raise WeightsError(f"{path.name} asks for more memory than a file of its size may") from error
    except Exception as error:  # KeyError, EOFError, RuntimeError, whatever the bytes lead to
        if _NO_MEMORY.search(str(error)):
            raise WeightsError(f"{path.name} asks for more memory than a file of its size may") from error
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error
    return content


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
