"""The benches that anyone can run: they print their tables, and what cannot be measured is one line."""

import sys
from pathlib import Path

import pytest

from bench import batcher, ceiling, lanes, start, transports


def test_what_the_batcher_costs_is_told_for_both_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["batcher", "--callers", "16", "--images", "320", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", command)
    assert batcher.main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    figures = {row[0]: [float(cell) for cell in row[1:6]] for row in rows if row[0] in ("task", "callback")}
    assert len(figures) == 2
    for middle, best, worst, process, batch in figures.values():
        assert 0 < best <= middle <= worst
        assert process > 0
        assert 1 <= batch <= 16


@pytest.mark.slow
def test_a_server_that_does_nothing_shows_what_the_machine_allows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ceiling", "--seconds", "0.5", "--rounds", "1"])
    assert ceiling.main() == 0
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[2:]]
    ways = ["a call each", "a call each our rpc", "streams", "streams our rpc"]
    ways += ["one by one calls", "one by one a stream"]
    assert [" ".join(row[:-5]) for row in rows] == ways
    for *_, rate, capacity, p50_ms, generator, errors in rows:
        assert float(rate) > 0 < float(capacity)
        assert float(p50_ms) > 0
        assert generator in {"h2load", "python"}
        assert errors == "0"


@pytest.mark.slow
def test_lanes_are_compared_on_the_same_load_and_their_answers_checked(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lanes", "lenet5-digits", "--repository", str(repository), "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--clients", "4", "--seconds", "0.2"])
    assert lanes.main() == 0
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1x2", "2x1", "2x2"]
    for _, middle, worst, best, p50, p99, batch, errors in rows:
        assert 0 < float(worst) <= float(middle) <= float(best)
        assert 0 < float(p50) <= float(p99)
        assert float(batch) >= 1
        assert errors == "0"


@pytest.mark.slow
@pytest.mark.parametrize("frontends", ["0", "1"])
def test_a_start_is_timed_to_its_first_right_answers(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], frontends: str
) -> None:
    command = ["start", "lenet5-digits", "--repository", str(repository), "--starts", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--frontends", frontends])
    assert start.main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [name for name, *_ in rows] == ["serving", "answered", "processor"]
    for _, middle, best, worst in rows:
        assert float(middle) == float(best) == float(worst) > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["nobody-digits"], "holds no model called 'nobody-digits'"),
        (["lenet5-digits", "--settings", "twox1"], "no setting: 'twox1'; 2x1 is two lanes of one thread"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["lanes", *options, "--repository", str(repository)])
    assert lanes.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_transports_are_compared_with_a_server_that_does_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transports", "lenet5-digits", "--repository", str(repository), "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--seconds", "0.5"])
    assert transports.main() == 0
    lines = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if len(line) == 8 and line[0] in ("calls", "streams")]
    servers = ("nothing", "grpc", "h2corn")
    assert [row[:2] for row in rows] == [[way, server] for way in ("calls", "streams") for server in servers]
    for _, _, rate, cpu_ms, ratio, mean_batch, generator, errors in rows:
        assert float(rate) > 0 < float(cpu_ms)
        assert float(ratio) > 0
        assert mean_batch == "-" or float(mean_batch) >= 1
        assert generator in {"h2load", "python"}
        assert errors == "0"
