"""What a file of torch's holds, read so that nothing in it is run.

A pickle makes its objects by naming classes and functions. Tensors and plain containers are made; what else
training scripts keep beside the weights, arguments, dates, numbers of NumPy's, becomes an object that holds
nothing. Its class is not imported. Functions are refused: a pickle names one to have it called.
"""

import pickle
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, Self

import torch

from artifact import files

# Named like functions, and only data: of Python, and of NumPy, where the real ones would trust what a
# pickle says of their memory. Python 3.11.0 to 3.11.3 pickle a member of an enumeration as what `getattr`
# would give.
_DATA = frozenset(
    {
        *(f"builtins.{kind}" for kind in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")),
        *(f"builtins.{kind}" for kind in ("complex", "frozenset", "object", "range", "slice", "type")),
        *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
        *("builtins.getattr", "collections.defaultdict", "collections.deque", "numpy.dtype", "numpy.ndarray"),
        *(
            f"numpy.{core}.multiarray.{made}"
            for core in ("core", "_core")
            for made in ("scalar", "_reconstruct")
        ),
    }
)
_MAX_CLASSES = 64  # that one file names; each means that it is read once more
_WANTED = re.compile(r"\bGLOBAL ([\w.]+)")  # in torch's page of advice on a pickle that names what it lacks
_FILLED = re.compile(r"Can only (SETITEM|append).*, but got <class 'inert\.([\w.]+)'>", re.DOTALL)


class NamesCodeError(Exception):
    """A pickle names what is no data.

    Attributes:
        name: of it; empty where torch says none.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Inert:
    """Stands for an object beside the weights: it takes what it would be made of, and forgets it."""

    def __new__(cls, *_: object) -> Self:
        """Make it of anything; an ``__init__`` would have to agree."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Do nothing."""

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""


class _Items:
    """Stands for a class of dictionaries: what is made is a plain one."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        """Make it of anything; of its classes of dictionaries, torch gives only this one attributes."""
        return OrderedDict()


class _Row:
    """Stands for a class of lists: what is made is a plain one."""

    def __new__(cls, *_: object) -> list[object]:  # type: ignore[misc]
        """Make it of anything."""
        return []


def load(path: Path) -> tuple[object, tuple[str, ...]]:
    """Read a file that ``torch.save`` wrote.

    Returns:
        What it holds, and the names of classes for which something inert was made, in their order.

    Raises:
        NamesCodeError: it names a function, or more classes than any training script has.
        UnpicklingError: it is no pickle of torch's.
        Exception: whatever the bytes of a damaged file lead to.
    """
    stand_ins: dict[str, type] = {}
    while True:
        inert: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
        try:
            # The warnings are torch's, of old formats.
            with (
                files.open_regular(path) as stream,
                warnings.catch_warnings(action="ignore"),
                torch.serialization.safe_globals(inert),
            ):
                return torch.load(stream, map_location="cpu", weights_only=True), tuple(stand_ins)
        except pickle.UnpicklingError as error:
            if _replaced(str(error), stand_ins):
                continue
            if stand_ins:
                raise NamesCodeError(next(iter(stand_ins))) from error
            raise


def _replaced(complaint: str, stand_ins: dict[str, type]) -> bool:
    """Find something inert for what torch complains of; return whether that was new.

    Raises:
        NamesCodeError: it is a function, or there are too many.
    """
    if filled := _FILLED.search(complaint):
        stand_ins[filled[2]] = _Items if filled[1] == "SETITEM" else _Row
        return True
    if not (wanted := _WANTED.search(complaint)):
        return False
    name = wanted[1] if "." in wanted[1] else f"builtins.{wanted[1]}"  # torch leaves that away
    is_class = name.rpartition(".")[2].lstrip("_")[:1].isupper()
    if not (is_class or name in _DATA) or name in stand_ins or len(stand_ins) >= _MAX_CLASSES:
        raise NamesCodeError(wanted[1])
    stand_ins[name] = type(name, (_Inert,), {"__module__": "inert"})
    return True
