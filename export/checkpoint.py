"""A state dict in a file that somebody else wrote.

The file is taken for hostile: nothing in it is run, and nothing as large as it merely claims to be is made.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from artifact import manifest
from export.words import OneLineError
from zoo import weights

SUFFIXES = (".pt", ".pth", ".safetensors")
_MAX_BYTES = (1 << 31) - 1  # of a file; the largest of the catalog, VGG-19's, has 0.57 GB
_WRAPPINGS = ("state_dict", "model")  # the keys under which training scripts keep it, beside an optimiser
_PARALLEL = "module."  # what DataParallel puts before every name
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
        if path.stat().st_size > _MAX_BYTES:
            raise WeightsError(f"{path.name} is larger than 2 GiB")
        file = manifest.describe_file(path)
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror}") from error
    tensors = _tensors(_content(path), path.name)
    # A tensor can claim any size over a few bytes of storage.
    if sum(value.numel() * value.element_size() for value in tensors.values()) > file.size_bytes:
        raise WeightsError(f"{path.name} claims more numbers than it holds")
    return Checkpoint(path.name, file.sha256, weights.modernised(tensors))


def some(names: list[str]) -> str:
    """Name a few of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


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
    except Exception as error:  # KeyError, EOFError, RuntimeError, whatever the bytes lead to
        raise WeightsError(f"{path.name} is damaged or truncated, or holds no weights") from error
    return content


def _tensors(content: object, file_name: str) -> dict[str, Tensor]:
    for key in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{file_name} holds no state dict, which is names with tensors")
    tensors = {str(name): value for name, value in content.items()}
    if strays := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{file_name} holds no state dict: {some(strays)} is no tensor")
    if odd := [name for name, value in tensors.items() if value.layout != torch.strided or value.is_meta]:
        raise WeightsError(f"{file_name}: {some(odd)} is sparse, or has no numbers")
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): value for name, value in tensors.items()}
    return tensors
