"""Where in a checkpoint the state dict lies: under which key, and what stands before its names."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from export.errors import ExportError
from zoo import weights

COUNTER = "num_batches_tracked"  # matters in training only; checkpoints older than 2018 lack it

# Where training scripts keep it, beside an optimiser's state: PyTorch's tutorials, Lightning, timm, BasicSR
# and torchvision's references. An average of the weights (EMA) is taken only where there is nothing else.
_KEYS = (
    *("state_dict", "model", "model_state_dict", "net", "network", "weights", "params"),
    *("ema", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema"),
)
_COUNTS = (COUNTER, "n_averaged")  # the latter of torch.optim.swa_utils.AveragedModel
_AVERAGED = "ema"  # in the name of a wrapper of averages of the weights beside it
_MAX_DEPTH = 2  # {"model": {"state_dict": ...}} is found
# What PyTorch puts into the names of a network that it compiles, shards or recomputes parts of.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class WeightsError(ExportError):
    """The weights are not taken; the message says why, in one line."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and where they were.

    Attributes:
        key: under which they lay, with a dot between two; empty where the file is a plain state dict.
        passed_over: other keys with what could be a state dict, beside that one.
        prefix: what was removed from all names, ``module.`` say.
        left: names beside theirs that are not the network's: of numbers, texts and the parts of a training.
    """

    tensors: dict[str, Tensor]
    key: str
    passed_over: tuple[str, ...]
    prefix: str
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say where it was found."""
        place = f"state dict under {self.key!r}" if self.key else "plain state dict"
        place += f" ({some(map(repr, self.passed_over))} not used)" if self.passed_over else ""
        place += f", prefix {self.prefix!r} removed" if self.prefix else ""
        return place + (f", {some(map(repr, self.left))} beside it not used" if self.left else "")


def find(content: object, file_name: str, wanted: Collection[str] = ()) -> StateDict:
    """Find the state dict in what a file holds.

    Args:
        wanted: names of a network's tensors. They tell its weights from the other tensors of a file, as of a
            loss or a metric, where not all have one prefix.

    Raises:
        WeightsError: there is none, there are several, or a tensor is sparse or has no numbers.
    """
    keys: list[str] = []
    passed_over: list[str] = []
    held = _dict(content)
    for _ in range(_MAX_DEPTH):
        present = [key for key, value in held.items() if isinstance(key, str) and _leads(value)]
        if not present and not _is_state(held):
            present = [key for key in _KEYS if _dict(held.get(key))][:1]  # to say what is wrong with it
        known = [key for key in _KEYS if key in present]
        if not present or (not known and _is_state(held)):
            break
        if not known and len(present) > 1:
            raise WeightsError(
                f"{file_name} holds several state dicts, under {some(map(repr, present))}: save one alone"
            )
        chosen = (known or present)[0]
        keys.append(chosen)
        passed_over += [key for key in present if key != chosen]
        held = _dict(held[chosen])
    tensors, left = _tensors(held, file_name)
    tensors, prefix, others = _named(tensors, file_name, frozenset(wanted))
    return StateDict(tensors, ".".join(keys), tuple(passed_over), prefix, (*left, *others))


def some(names: Iterable[str]) -> str:
    """Name a few of them."""
    all_names = list(names)
    more = f" and {len(all_names) - 3} more" if len(all_names) > 3 else ""
    return ", ".join(all_names[:3]) + more


def shared_prefix(names: Iterable[str]) -> str:
    """Return what stands before all names: ``module.`` of DataParallel, ``model.`` of Lightning, or several.

    Every network of the catalog has parts side by side, so what all names share is not a part of it.
    """
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{parts[0]}." for parts in takewhile(lambda parts: len(set(parts)) == 1, columns))


def _dict(value: object) -> dict[object, object]:
    """Return what a dictionary holds, without its attributes: a pickle can give it a ``get`` of its own."""
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def _is_state(value: object) -> bool:
    """Return whether a dictionary has tensors by names of parts and parameters, ``conv1.weight`` say."""
    return any(
        isinstance(name, str) and "." in name and isinstance(one, Tensor)
        for name, one in _dict(value).items()
    )


def _leads(value: object) -> bool:
    """Return whether a value is a state dict, or has one under a key."""
    return _is_state(value) or any(map(_is_state, _dict(value).values()))


def _tensors(held: dict[object, object], file_name: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a dictionary, and the names of what else is in it.

    A single number is none of a network's tensors where its name is that of no part: a step, an epoch.
    """
    tensors: dict[str, Tensor] = {}
    left: list[str] = []
    nameless = 0
    for name, value in held.items():
        if not isinstance(name, str):
            nameless += isinstance(value, Tensor)
        elif isinstance(value, Tensor) and ("." in name or value.numel() != 1 or not _is_state(held)):
            tensors[name] = value
        elif not name.endswith(_COUNTS):
            left.append(name)
    if nameless:
        raise WeightsError(f"{file_name} holds no state dict: {nameless} of its names are no text")
    if not tensors:
        why = f": {some(left)} {'is no tensor' if len(left) == 1 else 'are no tensors'} of torch's"
        raise WeightsError(
            f"{file_name} holds no state dict{why if left else ', which is names with tensors'}"
        )
    if odd := [name for name, value in tensors.items() if value.layout != torch.strided or value.is_meta]:
        raise WeightsError(f"{file_name}: {some(odd)} is sparse, or has no numbers")
    return tensors, left


def _named(
    tensors: dict[str, Tensor], file_name: str, wanted: frozenset[str]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Give tensors the names that they have in the network.

    Returns:
        They, what was removed from their names, and the names of those that are left out.

    Raises:
        WeightsError: there are several such networks.
    """
    prefix = shared_prefix(tensors)
    renamed = {_unwrapped(name.removeprefix(prefix)): value for name, value in tensors.items()}
    if len(renamed) < len(tensors):
        renamed = {name.removeprefix(prefix): value for name, value in tensors.items()}
    whole = _whole_networks(renamed, wanted)
    chosen = [inner for inner in whole if _AVERAGED not in inner] or whole
    if len(chosen) > 1:
        places = some(repr(prefix + inner) if inner else "no prefix" for inner in chosen)
        raise WeightsError(
            f"{file_name} holds the weights of several networks, behind {places}: save one alone"
        )
    [inner] = chosen or [""]
    averages = tuple(other for other in whole if other != inner)
    own = {
        name.removeprefix(inner): value
        for name, value in renamed.items()
        if name.startswith(inner) and not name.startswith(averages)
    }
    left = [name for name in renamed if name.removeprefix(inner) not in own or not name.startswith(inner)]
    if any(_is_layer(name, renamed[name]) for name in left if not name.startswith(averages)):
        return renamed, prefix, []  # a part of a larger network answers otherwise than the whole
    return own, prefix + inner, left


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _whole_networks(names: Collection[str], wanted: frozenset[str]) -> list[str]:
    """Return the prefixes behind which all wanted names are, the empty one among them."""
    if not wanted:
        return []
    modern = set(map(weights.modern_name, names))
    one = min(wanted)
    prefixes = {name.removesuffix(one) for name in modern if name.endswith(one)}
    return sorted(
        prefix
        for prefix in prefixes
        if (not prefix or prefix.endswith(".")) and all(prefix + name in modern for name in wanted)
    )


def _is_layer(name: str, value: Tensor) -> bool:
    """Return whether a tensor is a layer's weights, and not a loss's or a metric's."""
    return name.endswith(".weight") and value.dim() > 1
