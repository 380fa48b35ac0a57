"""What training scripts keep beside the weights is passed over, and nothing of it is run or imported."""

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import sys
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.weights import checkpoint
from export.weights.state_dict import WeightsError

STATE = {"c1.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}


class Colour(enum.Enum):
    RED = 1


class Red:
    """A member as Python 3.11.0 to 3.11.3 pickle it."""

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (Colour, "RED")


class Touch:
    """Pickled as a method, for another object to have it called."""

    def __call__(self, *_: object) -> None:
        """Be a function, as pickle wants it."""

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (pathlib.Path, "touch")


class Settings(dict[str, Any]):
    """A dictionary with attributes, as libraries of configurations have it."""


class History(list[float]):
    pass


def settings() -> Settings:
    made = Settings(lr=0.1)
    made.frozen = True  # type: ignore[attr-defined]
    return made


BESIDE: dict[str, Callable[[], object]] = {
    "datetime": lambda: datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "timedelta": lambda: datetime.timedelta(3),
    "path": lambda: pathlib.PureWindowsPath("a"),
    "decimal": lambda: decimal.Decimal("1.5"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "uuid": lambda: uuid.UUID(int=3),
    "namespace": lambda: argparse.Namespace(a=types.SimpleNamespace(b=1)),
    "defaultdict": lambda: collections.defaultdict(list, {"loss": [0.5]}),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "frozenset": lambda: frozenset([1]),
    "range": lambda: range(3),
    "enum": lambda: Colour.RED,
    "enum of older Pythons": Red,
    "settings": settings,
    "history": lambda: History([0.5, 0.4]),
    "loss": nn.CrossEntropyLoss,
    "optimizer": lambda: torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1),
    "class": lambda: nn.Conv2d,
    "state of NumPy's generator": np.random.get_state,
    "generator of NumPy": lambda: np.array([None, "a"], dtype=object),
}


WITH_SOURCE = ("loss", "class")  # of modules, which the format before PyTorch 1.6 had with their source


@pytest.mark.parametrize(
    ("name", "new_format"),
    [(name, new) for name in BESIDE for new in (True, False) if new or name not in WITH_SOURCE],
)
def test_objects_beside_the_weights_are_passed_over(name: str, new_format: bool, tmp_path: Path) -> None:
    content = {"args": [BESIDE[name](), {"a": (BESIDE[name](), 3)}], "state_dict": STATE}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new_format)
    found = checkpoint.read(tmp_path / "a.pt")
    assert found.state.keys() == STATE.keys()
    assert all(torch.equal(found.state[key], value) for key, value in STATE.items())


def test_a_method_that_a_pickle_asks_for_is_not_called(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return Touch(), (tmp_path / "touched",)

    torch.save({"args": Attack(), "state_dict": STATE}, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError, match=r"^a\.pt asks for builtins\.getattr; only tensors are taken from a file$"
    ):
        checkpoint.read(tmp_path / "a.pt")
    assert not (tmp_path / "touched").exists()


def test_a_class_that_is_nowhere_is_not_looked_for(tmp_path: Path) -> None:
    module = types.ModuleType("trainer")
    module.Config = type("Config", (), {"__module__": "trainer"})  # type: ignore[attr-defined]
    sys.modules["trainer"] = module
    torch.save({"config": module.Config(), "model": STATE}, tmp_path / "a.pt")
    del sys.modules["trainer"]
    assert checkpoint.read(tmp_path / "a.pt").state.keys() == STATE.keys()
    assert "trainer" not in sys.modules


def test_more_classes_than_any_script_has_are_refused(tmp_path: Path) -> None:
    made = [type(f"C{number}", (), {"__module__": __name__}) for number in range(70)]
    for one in made:
        setattr(sys.modules[__name__], one.__name__, one)
    torch.save({"classes": [one() for one in made], "model": STATE}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"^a\.pt asks for .*\.C64; only tensors are taken from a file$"):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.SAFETENSORS"])
def test_a_pickle_that_is_called_safetensors_is_read_as_what_it_is(name: str, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / name)
    assert checkpoint.read(tmp_path / name).state.keys() == STATE.keys()


def test_safetensors_that_are_called_a_pickle_are_read_as_what_they_are(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(STATE, tmp_path / "pytorch_model.bin")
    assert checkpoint.read(tmp_path / "pytorch_model.bin").state.keys() == STATE.keys()
