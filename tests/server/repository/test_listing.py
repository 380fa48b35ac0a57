"""What is on disk or in memory is listed, and nothing else is: models come and go while the server runs."""

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifact import layout
from modelzoo.v1 import classifier_pb2
from server.app import Server
from server.repository import disk
from tests.server import progress
from tests.server.repository import small

State = classifier_pb2.ModelState


def test_a_model_that_is_copied_in_is_listed_as_unloaded_in_the_order_of_names(
    serve, tmp_path: Path, fronted: int
) -> None:
    small.publish(tmp_path, "b")
    served = serve(frontends=fronted)
    small.publish(tmp_path, "c")
    small.publish(tmp_path, "a", 3)
    listed = served.require_agreement()
    assert {name: State.Name(one.state) for name, one in listed.items()} == {
        "a": "MODEL_STATE_UNLOADED",
        "b": "MODEL_STATE_READY",
        "c": "MODEL_STATE_UNLOADED",
    }
    assert [(one.version, one.state, one.reason) for one in served.index().values()] == [
        ("3", "UNAVAILABLE", "unloaded"),
        ("1", "READY", ""),
        ("1", "UNAVAILABLE", "unloaded"),
    ]
    assert served.load("a") == ""
    assert served.require_agreement()["a"].state == State.MODEL_STATE_READY


def test_a_model_that_is_deleted_serves_until_it_is_unloaded_and_leaves_nothing(
    serve, tmp_path: Path, fronted: int
) -> None:
    small.publish(tmp_path, "a")
    small.publish(tmp_path, "b")
    served = serve(frontends=fronted)
    for name in ("a", "b"):
        assert served.classify(name) == 1
    shutil.rmtree(tmp_path / "a")
    assert served.require_agreement()["a"].state == State.MODEL_STATE_READY
    assert served.unload("a") == ""
    assert list(served.require_agreement()) == ["b"]
    assert served.is_serving("a") is None
    assert served.load("a") == "the repository has no model called 'a'"
    assert served.unload("a") == "no model is called 'a'"
    small.publish(tmp_path, "a")
    assert served.load("a") == ""
    assert served.classify("a") == 1
    served.require_agreement()
    ok = {"model": "a", "code": "OK"}
    progress.wait_for(lambda: served.reading("modelzoo_requests_total", **ok) > 0)
    assert served.reading("modelzoo_requests_total", **ok) == 2  # one here, one of `require_agreement`


def test_models_that_were_never_loaded_or_failed_leave_with_their_folders(serve, tmp_path: Path) -> None:
    small.damage(small.publish(tmp_path, "failed"))
    served = serve()
    small.publish(tmp_path, "unloaded")
    assert list(served.require_agreement()) == ["failed", "unloaded"]
    shutil.rmtree(tmp_path / "failed")
    shutil.rmtree(tmp_path / "unloaded")
    assert list(served.require_agreement()) == []


def test_a_request_that_outlives_its_model_brings_no_series_back(start_gated, tmp_path: Path) -> None:
    served, network = start_gated("a")
    served.running.repository.metrics.forget_model("a")
    with ThreadPoolExecutor() as pool:
        network.shut()
        asked = pool.submit(served.classify, "a")
        network.entered.acquire()
        served.running.repository.metrics.forget_model("a")
        network.gate.set()
        assert asked.result() == 1
    names = {labels["model"] for _, labels, _ in served.samples() if "model" in labels}
    assert "a" not in names


def test_a_repository_that_vanishes_or_cannot_be_listed_is_an_answer_not_the_end(
    serve, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    small.publish(repository, "a")
    served = serve(repository)
    repository.rename(tmp_path / "elsewhere")
    assert served.require_agreement()["a"].state == State.MODEL_STATE_READY
    repository.write_text("a file")
    assert served.load("a") == "the repository has no model called 'a'"
    assert served.classify("a") == 1


def test_a_disk_that_hangs_leaves_the_list_as_it_was(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.publish(tmp_path, "a")
    served = serve()
    hangs, scan = threading.Event(), layout.scan
    monkeypatch.setattr("server.repository.repository._REFRESH_S", 0.05)
    monkeypatch.setattr(disk.layout, "scan", lambda folder: (hangs.wait(60), scan(folder))[1])
    small.publish(tmp_path, "b")
    for _ in range(3):
        assert list(served.listed()) == ["a"]
    assert served.classify("a") == 1
    assert sum(thread.name == "disk" for thread in threading.enumerate()) == 1
    assert [event["reason"] for event in served.logged("repository_not_listed")] == [
        "no answer within 0.05 s"
    ]
    hangs.set()
    progress.wait_for(lambda: list(served.listed()) == ["a", "b"])


@pytest.mark.parametrize(
    "step",
    [
        "hashes",
        *(pytest.param(step, marks=pytest.mark.slow) for step in ("manifest", "labels", "golden", "session")),
    ],
)
def test_a_model_whose_folder_vanishes_while_it_is_read_fails_alone(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    small.publish(tmp_path, "a")
    folder = small.publish(tmp_path, "gone")
    called = {
        "manifest": "artifact.files.read",
        "hashes": "artifact.files.sha256",
        "labels": "artifact.manifest.read_labels",
        "golden": "artifact.golden.read",
        "session": "server.repository.loading.open_and_prove",
    }[step]
    module, _, name = called.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)

    def vanish(first, *others, **named):
        if any("/gone" in str(value) for value in (first, *others)):
            shutil.rmtree(folder.parent, ignore_errors=True)
        return original(first, *others, **named)

    monkeypatch.setattr(called, vanish)
    served = serve()
    assert served.running.ready == ["a"]
    assert list(served.require_agreement()) == ["a"]  # and gone is gone
    [failed] = served.logged("model_failed")
    assert failed["model"] == "gone"


def test_a_slow_disk_under_one_model_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve
) -> None:
    for name in ("a", "slow", "z"):
        small.publish(tmp_path, name)
    answers, read = threading.Event(), small.golden.read
    states: list[dict[str, str]] = []

    def slow(path: Path, *others):
        if "/slow/" in str(path):
            assert answers.wait(60)
        return read(path, *others)

    load = Server.load

    async def load_and_look(server: Server) -> list[str]:
        loop = asyncio.get_running_loop()
        loading = loop.create_task(load(server))
        while sum(model.is_ready for model in server._repository) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        states.append({m.entry.name: State.Name(m.status.state) for m in server._repository})
        answers.set()
        return await loading

    monkeypatch.setattr("artifact.golden.read", slow)
    monkeypatch.setattr(Server, "load", load_and_look)
    served = serve()
    assert states == [{"a": "MODEL_STATE_READY", "slow": "MODEL_STATE_LOADING", "z": "MODEL_STATE_READY"}]
    assert served.running.ready == ["a", "slow", "z"]


def test_a_disk_that_never_answers_fails_its_model_in_time(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.publish(tmp_path, "a")
    small.publish(tmp_path, "hangs")
    never, read = threading.Event(), small.golden.read

    def hang(path: Path, *others):
        if "/hangs/" in str(path):
            never.wait(60)
        return read(path, *others)

    monkeypatch.setattr("artifact.golden.read", hang)
    served = serve(load_timeout_s=0.5)
    assert "a" in served.running.ready
    assert served.listed()["hangs"].reason == "load timed out after 0.5 s (setting load_timeout_s)"
    never.set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_names_the_user_id_and_no_path(serve, tmp_path: Path) -> None:
    folder = small.publish(tmp_path, "a")
    folder.chmod(0)
    served = serve()
    reason = served.listed()["a"].reason
    folder.chmod(0o700)
    assert f"permission denied for uid {os.geteuid()}" in reason
    assert str(tmp_path) not in reason
