"""Which architecture of the catalog a state dict is nearest to, by the names and shapes of its tensors."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.catalog import CATALOG

COUNTER = "num_batches_tracked"  # matters in training only; checkpoints older than 2018 lack it

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
    """
    own = _shapes(state)
    overlaps = {name: len(own & shapes) / len(own | shapes) for name, shapes in _catalog().items()}
    nearest = max(overlaps, key=overlaps.__getitem__)
    shapes = _catalog()[nearest]
    if not own & shapes:
        return "no architecture of the catalog has any of its tensors"
    return f"the nearest of the catalog is {nearest}: {len(own & shapes)} of its {len(shapes)} tensors match"


@functools.cache
def _catalog() -> Mapping[str, _Shapes]:
    """Return the tensors of every architecture, at its own input and number of labels.

    The networks have no weights. Building all takes 3 s of one core, and twice that if weights were drawn.
    """
    with torch.device("meta"), _Undrawn():
        return {spec.name: _shapes(spec.network().state_dict()) for spec in CATALOG}


def _shapes(state: Mapping[str, Tensor]) -> _Shapes:
    return frozenset((name, value.shape) for name, value in state.items() if not name.endswith(COUNTER))
