"""What Prometheus is told, and that it can trust it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from client import ClientError
from modelzoo.v1 import classifier_pb2
from server.observability.gpu_memory import DeviceMemoryCollector
from server.observability.metrics import Metrics

MODEL, OTHER = "simple_cnn-digits", "two_block_cnn-digits"
pytestmark = pytest.mark.serves(MODEL, OTHER)
PIXELS = np.zeros((8, 8, 1), np.uint8)

Sample = Callable[..., float]


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(url) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def running(start_server):
    return start_server(device="auto", model_batch_sizes={MODEL: [32]})


@pytest.fixture
def sample(running) -> Sample:
    """Give a series' value; it must exist."""

    def sample(name: str, **labels: str) -> float:
        return scrape(running.metrics_url)[name, frozenset(labels.items())]

    return sample


def test_every_series_is_there_at_zero_before_the_first_request(sample: Sample) -> None:
    rpc = {"grpc_type": "unary", "grpc_service": "modelzoo.v1.ClassifierService", "grpc_method": "Classify"}
    assert sample("grpc_server_started_total", **rpc) == 0
    for code in ("OK", "InvalidArgument", "NotFound", "ResourceExhausted", "DeadlineExceeded", "Internal"):
        assert sample("grpc_server_handled_total", **rpc, grpc_code=code) == 0
    assert sample("grpc_server_handling_seconds_count", **rpc) == 0
    for code in ("OK", "CANCELLED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"):
        assert sample("modelzoo_requests_total", model=MODEL, code=code) == 0
    assert sample("modelzoo_requests_total", model="_unknown", code="NOT_FOUND") == 0
    assert sample("modelzoo_images_total", model=MODEL) == 0
    assert sample("modelzoo_request_duration_seconds_count", model=MODEL) == 0
    assert sample("modelzoo_batch_size_images_count", model=MODEL) == 0
    for stage in ("decode", "queue", "infer"):
        assert sample("modelzoo_stage_duration_seconds_count", model=MODEL, stage=stage) == 0
    for reason in ("queue_full", "late", "expired", "cancelled", "failed"):
        assert sample("modelzoo_unanswered_images_total", model=MODEL, reason=reason) == 0


def test_what_a_batch_of_each_allowed_size_should_take_is_told(start_server) -> None:
    running = start_server(model_batch_sizes={MODEL: [4, 1, 4], OTHER: [4], "nobody-digits": [1]})
    told = {
        dict(labels)["batch_size"]: value
        for (name, labels), value in scrape(running.metrics_url).items()
        if name == "modelzoo_batch_latency_seconds" and ("model", MODEL) in labels
    }
    assert told.keys() == {"1", "4"}
    assert 0 < told["1"] <= told["4"] < 1
    with running.client() as client:
        [status] = [model for model in client.list_models() if model.name == MODEL]
        assert status.max_batch_size == 4
        assert [latency.batch_size for latency in status.batch_latencies] == [1, 4]
        assert client.classify_raw(OTHER, [np.zeros((28, 28, 1), np.uint8)] * 6).timing.batch_size == 4
    [warning] = [line for line in running.log.getvalue().splitlines() if "no_such_model" in line]
    assert '"setting": "model_batch_sizes"' in warning
    assert "nobody-digits" in warning


def test_answered_requests_are_counted_once_in_every_place(running, sample: Sample) -> None:
    with running.client() as client:
        for _ in range(3):
            client.classify(MODEL, [PIXELS] * 40)
    assert sample("modelzoo_requests_total", model=MODEL, code="OK") == 3
    assert sample("modelzoo_images_total", model=MODEL) == 120
    assert sample("modelzoo_request_duration_seconds_count", model=MODEL) == 3
    assert sample("modelzoo_stage_duration_seconds_count", model=MODEL, stage="decode") == 3
    assert sample("modelzoo_stage_duration_seconds_count", model=MODEL, stage="queue") == 3
    assert sample("modelzoo_stage_duration_seconds_count", model=MODEL, stage="infer") == 6
    assert sample("modelzoo_batch_size_images_count", model=MODEL) == 6
    assert sample("modelzoo_batch_size_images_sum", model=MODEL) == 120
    assert sample("modelzoo_queue_images", model=MODEL) == 0
    assert sample("modelzoo_queue_limit_images", model=MODEL) == 1024


def test_refused_requests_are_counted_by_their_status(running, sample: Sample) -> None:
    with running.client() as client:
        for model, picture in ((MODEL, b"bad"), ("made-up-1", b"x"), ("made-up-2", b"x")):
            with pytest.raises(ClientError):
                client.classify(model, [picture])
    assert sample("modelzoo_requests_total", model=MODEL, code="INVALID_ARGUMENT") == 1
    # What clients make up must not become series.
    assert sample("modelzoo_requests_total", model="_unknown", code="NOT_FOUND") == 2
    assert not any(("model", "made-up-1") in labels for _, labels in scrape(running.metrics_url))


def test_requests_for_a_model_that_is_not_ready_are_counted(start_server, scratch_repository) -> None:
    (scratch_repository / MODEL / "1/model.onnx").unlink()
    running = start_server(repository=scratch_repository)
    with running.client() as client, pytest.raises(ClientError):
        client.classify(MODEL, [PIXELS])
    series = scrape(running.metrics_url)
    assert series["modelzoo_requests_total", frozenset({("model", MODEL), ("code", "UNAVAILABLE")})] == 1
    state = {("model", MODEL), ("version", "1"), ("state", "failed")}
    assert series["modelzoo_model_state", frozenset(state)] == 1


def test_a_model_is_in_one_of_the_states_that_the_contract_names(running) -> None:
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in scrape(running.metrics_url).items()
        if name == "modelzoo_model_state" and ("model", MODEL) in labels
    }
    assert states == {"unloaded": 0, "loading": 0, "ready": 1, "draining": 0, "failed": 0}
    assert {f"MODEL_STATE_{state.upper()}" for state in states} == {
        name for name, number in classifier_pb2.ModelState.items() if number
    }


def test_memory_is_measured_for_every_model_and_the_process(repository: Path, exported) -> None:
    """In a process of its own: what a test process frees meanwhile would count against a model."""
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository), "--device", "cpu"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        events = {}
        for line in process.stderr:
            event = json.loads(line)
            events[event["event"]] = event
            if event["event"] == "serving":
                series = scrape(events["listening"]["metrics"])
                process.terminate()

    def sample(name: str, **labels: str) -> float:
        return series[name, frozenset(labels.items())]

    for name in exported:
        # A batch of 32 small pictures and the smallest of networks: some hundred kilobytes to some megabytes.
        assert 1e5 < sample("modelzoo_model_memory_bytes", model=name, version="1", device="cpu") < 30e6
        assert sample("modelzoo_model_load_seconds", model=name, version="1") > 0
        assert sample("modelzoo_model_state", model=name, version="1", state="ready") == 1
        assert sample("modelzoo_model_state", model=name, version="1", state="loading") == 0
    assert sample("process_resident_memory_bytes") > 30e6


def test_a_fallback_to_the_cpu_is_told_in_the_log_and_in_a_metric(running, sample: Sample) -> None:
    events = {event["event"]: event for event in map(json.loads, running.log.getvalue().splitlines())}
    if "device_fallback" not in events:
        pytest.skip("CUDA works here, so `auto` did not fall back")
    assert "device cuda:0 does not work" in events["device_fallback"]["reason"]
    assert sample("modelzoo_device_fallback") == 1
    assert sample("modelzoo_device_info", device="cpu", requested="auto") == 1


def test_the_cpu_on_request_is_no_fallback(start_server) -> None:
    running = start_server(device="cpu")
    assert scrape(running.metrics_url)["modelzoo_device_fallback", frozenset()] == 0
    assert "device_fallback" not in running.log.getvalue()


def test_a_cuda_device_shows_its_memory() -> None:
    registry = CollectorRegistry()
    registry.register(DeviceMemoryCollector("cuda:0", lambda: 3 << 30, lambda: 80 << 30))
    label = {"device": "cuda:0"}
    assert registry.get_sample_value("modelzoo_device_memory_used_bytes", label) == 3 << 30
    assert registry.get_sample_value("modelzoo_device_memory_total_bytes", label) == 80 << 30


def test_two_servers_in_a_process_do_not_share_metrics() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.for_requests("a").images.inc()
    second.for_requests("a")
    assert first.registry.get_sample_value("modelzoo_images_total", {"model": "a"}) == 1
    assert second.registry.get_sample_value("modelzoo_images_total", {"model": "a"}) == 0


def test_a_model_costs_a_bounded_number_of_series(running, sample: Sample, exported) -> None:
    series = scrape(running.metrics_url)
    of_model = [labels for _, labels in series if ("model", MODEL) in labels]
    assert len(of_model) <= 160
    methods = {labels for name, labels in series if name == "grpc_server_started_total"}
    assert len(series) <= 160 * len(exported) + 50 * len(methods) + 100
