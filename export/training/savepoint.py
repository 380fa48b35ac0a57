"""Where a training that was interrupted goes on."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


@dataclass(frozen=True)
class Savepoint:
    """A file that holds the state of one training, replaced as a whole after each epoch.

    Attributes:
        path: the file; absent until the first epoch has ended.
        key: tells this training from every other: what is not equal in it starts anew.
    """

    path: Path
    key: str

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file, so that a process that dies meanwhile leaves the old one.

        Args:
            state: tensors, numbers, texts, and lists and dictionaries of them.

        Raises:
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                torch.save({"key": self.key, "state": state}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self.path)
        finally:
            Path(name).unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the state, or None where there is none, or a damaged one, or another training's."""
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("key") != self.key:
            return None
        state: dict[str, Any] = found["state"]
        return state

    def remove(self) -> None:
        """Forget the training."""
        self.path.unlink(missing_ok=True)
