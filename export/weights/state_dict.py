"""Where in a checkpoint the state dict lies: under which key, and what stands before its names."""

from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from export.errors import ExportError

# Where training scripts keep it, beside an optimiser's state: PyTorch's tutorials, Lightning, timm and
# torchvision's references. An average of the weights (EMA) is taken only where there is nothing else.
_KEYS = (
    *("state_dict", "model", "model_state_dict", "net", "weights"),
    *("ema", "state_dict_ema", "model_ema", "ema_state_dict"),
)
_MAX_DEPTH = 2  # {"model": {"state_dict": ...}} is found
_AVERAGED = "n_averaged"  # what torch.optim.swa_utils.AveragedModel counts, beside its "module."


class WeightsError(ExportError):
    """The weights are not taken; the message says why, in one line."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and where they were.

    Attributes:
        key: under which they lay, with a dot between two; empty where the file is a plain state dict.
        passed_over: other keys with what could be a state dict, beside that one.
        prefix: what was removed from all names, ``module.`` say.
    """

    tensors: dict[str, Tensor]
    key: str
    passed_over: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        """Say where it was found."""
        place = f"state dict under {self.key!r}" if self.key else "plain state dict"
        others = f" ({', '.join(map(repr, self.passed_over))} not used)" if self.passed_over else ""
        return place + others + (f", prefix {self.prefix!r} removed" if self.prefix else "")


def find(content: object, file_name: str) -> StateDict:
    """Find the state dict in what a file holds.

    Raises:
        WeightsError: there is none, or a tensor is sparse or has no numbers.
    """
    keys: list[str] = []
    passed_over: tuple[str, ...] = ()
    held = _dict(content)
    for _ in range(_MAX_DEPTH):
        present = [key for key in _KEYS if _dict(held.get(key))]
        if not present:
            break
        held = _dict(held[present[0]])
        keys.append(present[0])
        passed_over += tuple(present[1:])
    tensors = _tensors(held, file_name)
    if len(tensors) > 1:
        tensors.pop(_AVERAGED, None)
    prefix = _prefix(list(tensors))
    named = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return StateDict(named, ".".join(keys), passed_over, prefix)


def some(names: list[str]) -> str:
    """Name a few of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _dict(value: object) -> dict[object, object]:
    """Return what a dictionary holds, without its attributes: a pickle can give it a ``get`` of its own."""
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def _prefix(names: list[str]) -> str:
    """Return what stands before all names: ``module.`` of DataParallel, ``model.`` of Lightning, or several.

    Every network of the catalog has parts side by side, so what all names share is not a part of it.
    """
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{parts[0]}." for parts in takewhile(lambda parts: len(set(parts)) == 1, columns))


def _tensors(held: dict[object, object], file_name: str) -> dict[str, Tensor]:
    if not held:
        raise WeightsError(f"{file_name} holds no state dict, which is names with tensors")
    named = {name: value for name, value in held.items() if isinstance(name, str)}
    if len(named) < len(held):
        count = len(held) - len(named)
        raise WeightsError(f"{file_name} holds no state dict: {count} of its names are no text")
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if strays := [name for name in named if name not in tensors]:
        raise WeightsError(f"{file_name} holds no state dict: {some(strays)} is no tensor")
    if odd := [name for name, value in tensors.items() if value.layout != torch.strided or value.is_meta]:
        raise WeightsError(f"{file_name}: {some(odd)} is sparse, or has no numbers")
    return tensors
