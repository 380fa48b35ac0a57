"""`modelzoo bench` as a user meets it: a server of its own, figures that add up, failures that are said."""

import contextlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifact.pictures import Pixels
from bench.comparison import comparison, open_report
from bench.errors import BenchError
from bench.plan import Plan
from server.inference import Probabilities
from server.runtime.network import Network, OnnxNetwork

NAME = "simple_cnn-digits"
pytestmark = pytest.mark.serves(NAME)
Measured = Callable[..., dict[str, Any]]


def refused(done: Any) -> str:
    """Check that the command ended without figures, and give the reason."""
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("modelzoo: ")
    return last.removeprefix("modelzoo: ")


@pytest.mark.parametrize("streams", [0, pytest.param(2, marks=pytest.mark.slow)], ids=["calls", "streams"])
def test_both_sides_are_measured_by_turns_and_the_figures_add_up(measured: Measured, streams: int) -> None:
    found = measured("--streams", streams, "--images", 4, "--concurrency", 6, "--generator", "python")
    assert (found["model"], found["version"], found["precision"], found["device"]) == (NAME, 1, "fp32", "cpu")
    assert (found["started_here"], found["streams"], found["images_per_request"]) == (True, streams, 4)
    assert found["connections"] == (streams or 4)
    assert 0 < found["certain_pictures"] == found["pictures"] <= 16
    closed = found["closed"]
    assert len(closed["rounds"]) == 2
    ratios = [served / bare for bare, served in closed["rounds"]]
    assert closed["ratio"] == pytest.approx(sum(ratios) / 2)
    assert closed["ratio_range"] == pytest.approx([min(ratios), max(ratios)])
    latency = closed["latency"]
    assert 0 < latency["p50_s"] <= latency["p90_s"] <= latency["p99_s"] <= latency["p99_9_s"]
    assert 1 <= closed["mean_batch"] <= 32
    assert closed["client_cpu_s_per_1000_images"] > 0
    assert closed["server_cpu_s_per_1000_images"] * closed["requests_per_server_cpu_s"] == pytest.approx(
        1000 / 4
    )
    assert closed["checked"] == closed["requests"] > 0
    assert (closed["failed"], closed["added_p50_s"], closed["generator"]) == (0, None, "python")
    assert found["open"] is found["starts"] is None


@pytest.mark.slow
def test_one_request_at_a_time_says_what_the_server_adds(measured: Measured) -> None:
    closed = measured("--concurrency", 1, "--generator", "python")["closed"]
    assert closed["bare"]["callers"] == closed["bare"]["batch_size"] == 1
    assert closed["added_p50_s"] == pytest.approx(closed["latency"]["p50_s"] - closed["bare_p50_s"])
    assert closed["mean_batch"] == 1


@pytest.mark.slow
def test_an_open_loop_is_held_against_an_ideal_server(measured: Measured) -> None:
    found = measured("--rate", 40, "--seconds", 1, "--rounds", 1, "--streams", 1)["open"]
    assert found["rate_per_s"] == 40
    assert found["answered"] == found["planned"] > 0
    assert found["answered_per_s"] == pytest.approx(found["answered"] / 1)
    assert found["p99_to_ideal"] == pytest.approx(found["latency"]["p99_s"] / found["ideal"]["p99_s"])
    assert (found["hung"], found["failed"], found["refused"]) == (0, 0, {})
    before, after = found["memory_bytes"]
    assert min(before, after) > 50_000_000


@pytest.mark.slow
def test_more_than_the_server_can_do_is_refused_with_a_status_and_nothing_hangs(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text("max_queue_size = 4\nmax_images_per_request = 4\n")
    done = bench(
        *("--rate", "3x", "--deadline-ms", 100, "--rounds", 1, "--seconds", 0.5, "--generator", "python"),
        *("--concurrency", 2, "--images", 2, "--config", tmp_path / "small.toml", "--json"),
    )
    [figures] = json.loads(done.stdout)
    found = figures["open"]
    # How many are answered in so short a time depends on the machine; the bench says whether that is enough.
    assert done.returncode == (1 if found["failed"] else 0), done.stderr
    assert found["failed"] in (0, sum(found["refused"].values()))
    assert set(found["refused"]) <= open_report.ALLOWED
    assert found["answered"] + sum(found["refused"].values()) == found["planned"]
    assert (found["hung"], found["wrong"], found["ideal"]) == (0, 0, None)


@pytest.mark.slow
def test_a_table_for_people_has_a_line_a_figure_and_a_column_a_model(bench: Callable[..., Any]) -> None:
    done = bench("lenet5-digits", "--rounds", 1)
    assert done.returncode == 0, done.stderr
    title, header, *rows = done.stdout.splitlines()
    assert "a server of its own; 16 requests of 1 images outstanding, with a call each" in title
    assert header.split() == [NAME, "fp32", "lenet5-digits", "fp32"]
    shown = {name: values for name, *values in (re.split(r" {2,}", row.strip()) for row in rows)}
    for name in ("bare images/s", "served images/s", "served / bare", "p99.9 ms", "mean batch"):
        assert len(shown[name]) == 2, name
    assert shown["wrong, refused, hung"] == ["0, 0, 0"] * 2
    assert f"{NAME}: round 1 of 1: bare " in done.stderr


@pytest.mark.slow
def test_the_first_requests_of_every_start_are_measured(measured: Measured) -> None:
    found = measured("--starts", 2, "--rounds", 1)["starts"]
    assert (found["starts"], found["requests_each"], found["failed"]) == (2, 1000, 0)
    assert found["p99_to_steady"] == pytest.approx(found["first"]["p99_s"] / found["steady"]["p99_s"])


@pytest.mark.slow
def test_int8_is_held_against_the_int8_files_own_answers(measured: Measured) -> None:
    found = measured("--precision", "int8", "--rounds", 1)
    assert (found["precision"], found["closed"]["failed"]) == ("int8", 0)


class Turning:
    """A network that answers rightly until it is told otherwise, and then with the next label."""

    def __init__(self, network: Network, turned: threading.Event) -> None:
        self._network = network
        self._turned = turned

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        return np.roll(self._network.infer(rows), int(self._turned.is_set()), axis=1)


class Failing:
    """A network whose device fails from the second batch on that follows an event."""

    def __init__(self, network: Network, broken: threading.Event) -> None:
        self._network = network
        self._broken = broken
        self._left = 1

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        if self._broken.is_set():
            if not self._left:
                raise RuntimeError("broken")
            self._left -= 1
        return self._network.infer(rows)


def test_wrong_answers_are_noticed_whatever_asks(bench: Callable[..., Any], start_server) -> None:
    turned = threading.Event()
    running = start_server(open_network=lambda *arguments: Turning(OnnxNetwork(*arguments), turned))
    turned.set()  # it has proved itself
    done = bench("--address", running.address, "--rounds", 1, "--json")
    assert done.returncode == 1
    [figures] = json.loads(done.stdout)
    closed = figures["closed"]
    assert closed["wrong"] == closed["checked"] == closed["failed"] > 0
    assert f"requests without a right answer: {closed['failed']:,} of {NAME}" in done.stderr


def refusal(repository: Path, model: str = NAME, **options: Any) -> str:
    """Give the reason why something is not measured."""
    with pytest.raises(BenchError) as caught:
        comparison.compare(model, Plan(repository, **({"device": "cpu"} | options)), lambda line: None)
    return str(caught.value)


def test_another_artifact_of_the_same_name_is_noticed(
    repository: Path, start_server, scratch_repository: Path
) -> None:
    newer = scratch_repository / NAME / "2"
    shutil.copytree(scratch_repository / NAME / "1", newer)
    manifest = (newer / "manifest.json").read_text("utf-8")
    (newer / "manifest.json").write_text(manifest.replace('"version": 1', '"version": 2'), "utf-8")
    running = start_server(repository=scratch_repository)
    said = refusal(repository, address=running.address)
    assert said == f"{running.address} serves version 2 of {NAME}, and {repository} holds 1"


def test_a_running_server_is_measured_without_what_only_its_own_process_knows(
    measured: Measured, server
) -> None:
    found = measured("--address", server.address, "--generator", "python", "--rounds", 1)
    assert (found["address"], found["started_here"]) == (server.address, False)
    closed = found["closed"]
    assert closed["server_cpu_s_per_1000_images"] is None
    assert closed["mean_batch"] >= 1  # the answers say


@pytest.mark.slow
def test_the_process_of_a_running_server_may_be_named(measured: Measured, server) -> None:
    closed = measured("--address", server.address, "--pid", os.getpid(), "--rounds", 1)["closed"]
    assert closed["server_cpu_s_per_1000_images"] > 0


def test_what_cannot_be_measured_is_refused_in_a_line(bench: Callable[..., Any]) -> None:
    assert refused(bench("--address", "127.0.0.1:1")) == "no server answers at 127.0.0.1:1"
    assert "no rate: 'fast'" in refused(bench("--rate", "fast"))


@pytest.mark.parametrize("streams", [0, 1], ids=["calls", "stream"])
@pytest.mark.parametrize("protocol", ["modelzoo", "open-inference"])
def test_requests_that_the_server_does_not_take_are_not_measured(
    repository: Path, server, streams: int, protocol: str
) -> None:
    said: list[str] = []
    plan = Plan(repository, address=server.address, images=300, streams=streams, protocol=protocol)
    with pytest.raises(BenchError, match=r"^a request of 300 images is refused: [A-Z_]+ \(.*256") as caught:
        comparison.compare(NAME, plan, said.append)
    assert "\n" not in str(caught.value)
    assert said == []  # nothing was looked for, and nothing measured


def test_requests_that_no_server_takes_are_not_even_built(repository: Path, server) -> None:
    reason = (
        "a request of 100,000,000 images has 6,400,000,000 bytes; no server takes more than 1,073,741,824"
    )
    assert refusal(repository, address=server.address, images=100_000_000) == reason


def test_a_generator_that_cannot_see_refusals_asks_only_servers_that_tell(repository: Path) -> None:
    with pytest.raises(BenchError, match="take --generator python with --address"):
        Plan(repository, address="127.0.0.1:1", generator="h2load")


@pytest.mark.slow
def test_the_line_at_the_end_says_how_many_were_refused_with_which_status_and_why(
    bench: Callable[..., Any], start_server
) -> None:
    full = threading.Event()
    running = start_server(open_network=lambda *arguments: Failing(OnnxNetwork(*arguments), full))
    full.set()  # it has proved itself, and answers the one request that is tried
    done = bench("--address", running.address, "--rounds", 1, "--json")
    assert done.returncode == 1
    [figures] = json.loads(done.stdout)
    closed = figures["closed"]
    refusals = closed["refused"]["INTERNAL"]
    assert (closed["requests"], closed["served_images_per_s"], closed["latency"]["p50_s"]) == (0, 0, None)
    assert closed["failed"] == refusals > 0
    assert done.stderr.splitlines()[-1] == (
        f"modelzoo: requests without a right answer: {refusals:,} of {NAME}, "
        f"refused: {refusals:,} INTERNAL (the device failed this batch)"
    )


def test_a_model_that_neither_side_has_is_refused(
    repository: Path, start_server, scratch_repository: Path
) -> None:
    said = refusal(repository, "nobody")
    assert said.startswith(f"{repository} holds no model called 'nobody'; there is: lenet5-digits, {NAME}")
    shutil.rmtree(scratch_repository / NAME)
    running = start_server(repository=scratch_repository)
    said = refusal(repository, address=running.address)
    assert said.startswith(f"{running.address}: no model is called '{NAME}'")


def test_a_precision_that_is_not_published_is_refused(scratch_repository: Path, server) -> None:
    path = scratch_repository / NAME / "1/manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["precisions"] = [one for one in manifest["precisions"] if one["name"] == "fp32"]
    path.write_text(json.dumps(manifest), "utf-8")
    options = {"protocol": "open-inference", "address": server.address, "precision": "int8"}
    assert refusal(scratch_repository, **options) == f"{NAME} has no int8; there is: fp32"


def test_settings_that_no_server_takes_are_told_by_the_server(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("max_batch_size = 0\n")
    said = refusal(repository, config=tmp_path / "settings.toml")
    assert said.startswith("the server ended with exit code 1: settings: max_batch_size")


def test_a_damaged_artifact_is_refused(scratch_repository: Path) -> None:
    (scratch_repository / NAME / "1/labels.txt").write_text("0\n")
    said = refusal(scratch_repository)
    assert said.startswith(f"{NAME} is not served: ")
    assert "labels.txt is not the file that was published" in said


def servers_of_ours() -> list[int]:
    """Find the processes that this one has started to serve."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if path.name.isdecimal() and b"\0serve\0" in (path / "cmdline").read_bytes():
                parent = int((path / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
                found += [int(path.name)] if parent == os.getpid() else []
    return found


def test_a_server_that_dies_in_the_middle_ends_the_measurement(repository: Path) -> None:
    said = []

    def kill_after_the_first_round(line: str) -> None:
        said.append(line)
        if "round 1 of 3" in line:
            [pid] = servers_of_ours()
            os.kill(pid, signal.SIGKILL)

    plan = Plan(repository, device="cpu", seconds=0.2, rounds=3)
    with pytest.raises(BenchError, match=r"^the server ended with exit code -9: .*serving"):
        comparison.compare(NAME, plan, kill_after_the_first_round)
    assert not any("round 2" in line for line in said)
    assert servers_of_ours() == []
