"""Which architecture of the catalog a state dict is nearest to, by the names and shapes of its tensors."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from export.weights.state_dict import COUNTER, shared_prefix
from zoo.catalog import CATALOG

_Shapes = frozenset[tuple[str, torch.Size]]


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where a module would draw its weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, unless all it does is to draw."""
        is_drawing = (
            func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init"
        )
        return args[0] if is_drawing and args else func(*args, **(kwargs or {}))


def described(state: Mapping[str, Tensor]) -> str:
    """Name the nearest architecture, and say how many of its tensors the state dict has.

    Near is what shares many tensors and differs in few: ResNet-34 has every tensor of ResNet-18, and more.
    Of a state dict with several parts, each is looked at, too: a backbone beside a head, say.
    """
    parts = {"": _shapes(state)} | {
        prefix: frozenset((name.removeprefix(prefix), shape) for name, shape in _shapes(part))
        for prefix, part in _parts(state).items()
    }
    overlaps = {
        (prefix, name): len(own & shapes) / len(own | shapes)
        for prefix, own in parts.items()
        for name, shapes in _catalog().items()
    }
    prefix, nearest = max(overlaps, key=overlaps.__getitem__)
    shapes = _catalog()[nearest]
    shared = len(parts[prefix] & shapes)
    if not shared:
        return "no architecture of the catalog has any of its tensors"
    behind = f" behind {prefix!r}" if prefix else ""
    return f"the nearest of the catalog is {nearest}: {shared} of its {len(shapes)} tensors match{behind}"


def _parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each part, by what stands before all of its names."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        parts.setdefault(name.partition(".")[0], {})[name] = value
    return {prefix: part for part in parts.values() if (prefix := shared_prefix(part))}


@functools.cache
def _catalog() -> Mapping[str, _Shapes]:
    """Return the tensors of every architecture, at its own input and number of labels.

    The networks have no weights. Building all takes 3 s of one core, and twice that if weights were drawn.
    """
    with torch.device("meta"), _Undrawn():
        return {spec.name: _shapes(spec.network().state_dict()) for spec in CATALOG}


def _shapes(state: Mapping[str, Tensor]) -> _Shapes:
    return frozenset((name, value.shape) for name, value in state.items() if not name.endswith(COUNTER))
