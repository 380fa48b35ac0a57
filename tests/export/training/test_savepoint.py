"""A training that is killed goes on where it was, and ends as if nothing had happened."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from artifact import layout, manifest
from export import pipeline
from export.training.recipes import Recipe
from export.training.savepoint import Savepoint
from zoo import catalog

RECIPE = Recipe(epochs=4, learning_rate=1e-2)

KILLED = """
import os, signal, sys
from pathlib import Path
from export import pipeline
from export.training import train
from export.training.recipes import Recipe
from zoo import catalog

class Killer(pipeline.Silent):
    def epoch(self, epoch):
        print(epoch.number, flush=True)
        if epoch.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

pipeline.export(
    catalog.find("simple_cnn"),
    pipeline.Request(Path(sys.argv[1]), recipe=Recipe(epochs=4, learning_rate=1e-2)),
    Killer(),
)
"""


class Epochs(pipeline.Silent):
    def __init__(self) -> None:
        self.trained: list[int] = []
        self.told: list[int] = []

    def images(self, done: int, total: int) -> None:
        epoch = -(-done // (total // RECIPE.epochs))
        if epoch not in self.trained:
            self.trained.append(epoch)

    def epoch(self, epoch) -> None:
        self.told.append(epoch.number)


@pytest.mark.slow  # three exports, one of them in a process of its own
def test_a_killed_training_goes_on_after_its_last_epoch_and_gives_the_same_network(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(killed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["1", "2", "3"]
    assert list(layout.newest(killed)) == []

    spec, watcher = catalog.find("simple_cnn"), Epochs()
    resumed = pipeline.export(spec, pipeline.Request(killed, recipe=RECIPE), watcher)
    assert watcher.told == [1, 2, 3, 4]
    assert watcher.trained == [3, 4]  # the third had ended, but its state was not written yet
    unbroken = pipeline.export(spec, pipeline.Request(whole, recipe=RECIPE))
    for name in ("model.onnx", "model.int8.onnx", "labels.txt"):
        assert (resumed.folder / name).read_bytes() == (unbroken.folder / name).read_bytes()
    assert manifest.read(resumed.folder).weights.epochs == 4
    assert [path.name for path in resumed.folder.parent.iterdir()] == ["1"]  # the savepoint is gone


def test_the_state_of_another_training_is_not_taken(tmp_path: Path) -> None:
    saved = Savepoint(tmp_path / "state", "one key")
    saved.save({"epochs": [1, 2]})
    assert saved.load() == {"epochs": [1, 2]}
    assert Savepoint(tmp_path / "state", "another key").load() is None


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_state_starts_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    assert Savepoint(tmp_path / "state", "key").load() is None


def test_there_is_no_state_before_the_first_epoch(tmp_path: Path) -> None:
    assert Savepoint(tmp_path / "state", "key").load() is None


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    saved = Savepoint(tmp_path / "state", "key")
    saved.save({"tensor": torch.arange(3)})

    class Unwritable:
        def __reduce__(self) -> tuple[object, ...]:
            raise ValueError("cannot be pickled")

    with pytest.raises(ValueError, match="cannot be pickled"):
        saved.save({"tensor": Unwritable()})
    assert torch.equal(saved.load()["tensor"], torch.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
