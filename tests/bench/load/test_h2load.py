"""h2load: its log is read rightly, and where it is installed it asks a real server."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifact.golden import Golden
from bench.errors import BenchError
from bench.load import h2load
from bench.load.load import Load
from bench.load.protocols import Classify

NAME = "simple_cnn-digits"
needs_h2load = pytest.mark.skipif(
    not h2load.installed() and "CI" not in os.environ, reason="h2load is not installed"
)


@pytest.fixture
def load(digits: Golden) -> Load:
    labels = [{int(label)} for label in digits.probabilities.argmax(axis=1)]
    return Load(Classify(NAME), list(digits.images), labels, 2, 6, seconds=0.4, warm_up_s=0.1)


def test_its_log_is_begin_status_and_duration_of_every_request(load: Load) -> None:
    log = "5000000\t200\t2000\n5001000\t200\t150000\n5000500\t503\t10\n5002000\t-1\t10\n"
    found = h2load._report(load, log, cpu_s=0.25)
    assert found.asked_s == pytest.approx([0, 0.001])
    assert found.latencies_s == pytest.approx([0.002, 0.15])
    assert found.measured_latencies_s == pytest.approx([0.15])  # the other came while warming up
    assert found.refused == {"HTTP 503": 1, "failed": 1}
    assert (found.generator, found.client_cpu_s, found.images_per_request) == ("h2load", 0.25, 2)


def test_an_empty_log_is_no_measurement(load: Load) -> None:
    with pytest.raises(BenchError, match="h2load was answered nothing"):
        h2load._report(load, "", cpu_s=0)


@needs_h2load
def test_it_asks_a_real_server(load: Load, server) -> None:
    found = h2load.closed_loop(load, server.address)
    assert (found.refused, found.errors) == ({}, 0)
    assert found.answered > 0
    assert (found.latencies_s > 0).all()
    assert np.ptp(found.asked_s) < 60
    assert found.client_cpu_s > 0


@needs_h2load
def test_it_says_when_nobody_answers(load: Load) -> None:
    with pytest.raises(BenchError, match="h2load"):
        h2load.closed_loop(load, "127.0.0.1:1")


@needs_h2load
@pytest.mark.slow
def test_the_command_takes_it_for_calls_and_checks_answers_in_a_load_of_their_own(
    measured: Callable[..., dict[str, Any]],
) -> None:
    closed = measured("--concurrency", 6, "--rounds", 1)["closed"]
    assert closed["generator"] == "h2load"
    assert closed["checked"] > 0
    assert closed["failed"] == 0


def test_who_wants_h2load_is_told_where_it_is(bench: Callable[..., Any], tmp_path: Path) -> None:
    done = bench("--generator", "h2load", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "modelzoo: h2load is not installed; it is in Debian's package nghttp2-client\n"


@pytest.mark.slow
def test_the_command_asks_by_itself_where_there_is_none(
    measured: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    closed = measured("--rounds", 1, PATH=str(tmp_path))["closed"]
    assert closed["generator"] == "python"
    assert closed["checked"] == closed["requests"] > 0


@pytest.mark.slow
@needs_h2load
def test_refusals_that_it_cannot_see_the_server_counts(
    bench: Callable[..., Any], start_server, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(
        "max_queue_size = 1\nmax_images_per_request = 1\nmax_batch_size = 1\n"
    )
    done = bench("--config", tmp_path / "small.toml", "--rounds", 1, "--concurrency", 32)
    assert done.returncode == 1
    assert "RESOURCE_EXHAUSTED" in done.stdout
