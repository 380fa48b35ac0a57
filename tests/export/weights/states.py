"""State dicts, and what training scripts make of their names."""

from typing import Any

from zoo import catalog

LENET = catalog.find("lenet5")
State = dict[str, Any]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}
