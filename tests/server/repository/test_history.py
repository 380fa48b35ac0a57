"""After any history of copies, damage, loads, unloads and deletions, all say the same of the models."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from modelzoo.v1 import classifier_pb2
from tests.server.repository import small
from tests.server.repository.conftest import Served

State = classifier_pb2.ModelState
NAMES = st.sampled_from(["a", "b", "c"])


class History(RuleBasedStateMachine):
    """One server and its folder; what lies there is remembered, with which versions are good."""

    frontends = 0

    def __init__(self) -> None:
        super().__init__()
        self.repository = Path(tempfile.mkdtemp(prefix="modelzoo-history-"))
        self.disk: dict[str, dict[int, bool]] = {}
        self.serving: dict[str, int] = {}
        small.publish(self.repository, "a")
        self.disk["a"] = {1: True}
        self.serving["a"] = 1
        self.server = Served(self.repository, self.frontends)

    def teardown(self) -> None:
        self.server.stop()
        shutil.rmtree(self.repository)

    def folder(self, name: str, version: int) -> Path:
        return self.repository / name / str(version)

    @rule(name=NAMES, good=st.booleans())
    def copy_in(self, name: str, good: bool) -> None:
        """Publish the next version of a model, damaged or not."""
        versions = self.disk.setdefault(name, {})
        version = max(versions, default=0) + 1
        folder = small.publish(self.repository, name, version)
        if not good:
            small.damage(folder)
        versions[version] = good

    @precondition(lambda self: self.disk)
    @rule(data=st.data())
    def damage_or_repair(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk)))
        version = data.draw(st.sampled_from(sorted(self.disk[name])))
        small.damage(self.folder(name, version))
        self.disk[name][version] = not self.disk[name][version]

    @precondition(lambda self: self.disk)
    @rule(data=st.data(), whole=st.booleans())
    def delete(self, data: st.DataObject, whole: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk)))
        newest = max(self.disk[name])
        if whole or len(self.disk[name]) == 1:
            shutil.rmtree(self.repository / name)
            del self.disk[name]
        else:
            shutil.rmtree(self.folder(name, newest))
            del self.disk[name][newest]

    @rule(name=NAMES)
    def load(self, name: str) -> None:
        error = self.server.load(name)
        versions = self.disk.get(name, {})
        if not versions:
            assert "no model called" in error
            return
        newest = max(versions)
        if self.serving.get(name) == newest:
            assert error == ""
        elif versions[newest]:
            assert error == ""
            self.serving[name] = newest
        else:
            assert "failed: model.onnx" in error
            tried = sorted(versions, reverse=True)[:3]
            if name not in self.serving and any(versions[version] for version in tried):
                self.serving[name] = next(version for version in tried if versions[version])

    @rule(name=NAMES)
    def unload(self, name: str) -> None:
        self.server.unload(name)
        self.serving.pop(name, None)

    @rule(name=NAMES)
    def classify(self, name: str) -> None:
        assert self.server.classify(name) == self.serving.get(name, 0)

    @invariant()
    def all_say_the_same(self) -> None:
        listed = self.server.require_agreement()
        assert set(listed) == self.disk.keys() | self.serving.keys()
        for name, status in listed.items():
            ready = status.state == State.MODEL_STATE_READY
            assert (status.version if ready else 0) == self.serving.get(name, 0)
            assert ready or status.state in (State.MODEL_STATE_UNLOADED, State.MODEL_STATE_FAILED)
            assert (status.state == State.MODEL_STATE_FAILED) <= bool(status.reason)


class HistoryBehindFrontends(History):
    frontends = 2


@pytest.mark.parametrize(
    ("machine", "histories", "steps"),
    [
        (History, 1, 10),
        pytest.param(History, 4, 25, marks=pytest.mark.slow),
        pytest.param(HistoryBehindFrontends, 1, 15, marks=pytest.mark.slow),
    ],
    ids=["short", "long", "front ends"],
)
def test_all_say_the_same_after_any_history(
    machine: type[RuleBasedStateMachine], histories: int, steps: int
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
