"""The newest version that proves itself serves, and what failed is said aloud."""

from pathlib import Path

from modelzoo.v1 import classifier_pb2
from tests.server.repository import small

READY, FAILED = classifier_pb2.MODEL_STATE_READY, classifier_pb2.MODEL_STATE_FAILED


def test_an_older_version_serves_where_the_newest_fails_and_all_say_so(
    serve, tmp_path: Path, fronted: int
) -> None:
    small.publish(tmp_path, "a")
    small.publish(tmp_path, "net", 1)
    small.damage(small.publish(tmp_path, "net", 2))
    served = serve(frontends=fronted)
    assert served.running.ready == ["a", "net"]
    listed = served.require_agreement()
    assert (listed["net"].state, listed["net"].version) == (READY, 1)
    said = "serving version 1: version 2 failed: model.onnx is not the file that was published: sha256 "
    assert listed["net"].reason.startswith(said)
    assert served.index()["net"].reason.startswith(said)
    assert listed["a"].reason == ""
    assert served.classify("net") == 1
    assert served.reading("modelzoo_model_fallback", model="net") == 1
    assert served.reading("modelzoo_model_fallback", model="a") == 0
    assert served.reading("modelzoo_model_load_failures_total", model="net") == 1
    [event] = served.logged("older_version_serves")
    assert (event["level"], event["model"], event["version"], event["failed_version"]) == (
        "error",
        "net",
        1,
        2,
    )
    assert served.is_serving("")


def test_a_repaired_newest_version_takes_over_and_nothing_is_said_any_more(serve, tmp_path: Path) -> None:
    small.publish(tmp_path, "net", 1)
    newest = small.publish(tmp_path, "net", 2)
    small.damage(newest)
    served = serve()
    assert served.load("net").startswith("net is failed: model.onnx is not the file")
    assert served.require_agreement()["net"].reason.startswith("serving version 1: version 2 failed")
    small.damage(newest)  # the same bit again
    assert served.load("net") == ""
    listed = served.require_agreement()
    assert (listed["net"].version, listed["net"].reason) == (2, "")
    assert served.reading("modelzoo_model_fallback", model="net") == 0


def test_a_newest_version_that_is_deleted_is_not_spoken_of_after_a_load(serve, tmp_path: Path) -> None:
    small.publish(tmp_path, "net", 1)
    newest = small.publish(tmp_path, "net", 2)
    small.damage(newest)
    served = serve()
    small.remove(newest)
    assert served.load("net") == ""
    assert served.require_agreement()["net"].reason == ""
    assert served.reading("modelzoo_model_fallback", model="net") == 0


def test_a_version_that_fails_while_another_serves_leaves_no_series(
    serve, tmp_path: Path, fronted: int
) -> None:
    small.publish(tmp_path, "net", 1)
    served = serve(frontends=fronted)
    small.damage(small.publish(tmp_path, "net", 2))
    assert served.load("net").startswith("net is failed: model.onnx is not the file")
    listed = served.require_agreement()
    assert listed["net"].reason.startswith("serving version 1: version 2 failed: model.onnx")
    assert served.unload("net") == ""
    assert served.require_agreement()["net"].reason == ""


def test_where_none_serves_a_load_takes_an_older_version_and_reports_the_newest(
    serve, tmp_path: Path
) -> None:
    small.publish(tmp_path, "net", 1)
    served = serve()
    served.unload("net")
    small.damage(small.publish(tmp_path, "net", 2))
    assert served.load("net").startswith("net is serving version 1: version 2 failed: model.onnx")
    assert served.require_agreement()["net"].version == 1


def test_so_many_older_versions_are_tried_and_no_more(serve, tmp_path: Path) -> None:
    small.publish(tmp_path, "net", 1)
    for version in (2, 3, 4):
        small.damage(small.publish(tmp_path, "net", version))
    served = serve()
    listed = served.require_agreement()
    assert (listed["net"].state, listed["net"].version) == (FAILED, 4)
    assert [event["version"] for event in served.logged("model_failed")] == [4, 3, 2]


def test_folders_that_are_passed_over_are_warned_of_once(serve, tmp_path: Path) -> None:
    small.publish(tmp_path, "net")
    for folder in ("net/02", "net/1.0", "net/1234567890", "Net/1", "empty", "net/.staging-x", ".git/1"):
        (tmp_path / folder).mkdir(parents=True)
    served = serve()
    for _ in range(2):
        served.index()
    events = served.logged("ignored_folder")
    assert {event["folder"] for event in events} == {"net/02", "net/1.0", "net/1234567890", "Net", "empty"}
    assert len(events) == 5
    assert {event["level"] for event in events} == {"warning"}
    assert all(event["reason"] for event in events)
    (tmp_path / "later-02").mkdir()
    assert served.load("later-02").startswith("the repository has no model called 'later-02'")
    assert [event["folder"] for event in served.logged("ignored_folder")][5:] == ["later-02"]


def test_a_reason_is_one_short_line_whatever_a_manifest_holds(serve, tmp_path: Path) -> None:
    folder = small.publish(tmp_path, "net")
    (folder / "manifest.json").write_text('{"\\u001b[31m\\u202e%s": 1}' % ("x" * 9000))
    served = serve()
    reason = served.listed()["net"].reason
    assert len(reason) <= 200
    assert reason.isprintable()
