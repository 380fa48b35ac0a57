"""A server process that is given the worst: folders nobody may read, pipes, floods, names without end."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from artifact import manifest
from client import Client, ClientError
from modelzoo.v1 import classifier_pb2, open_inference_pb2

BROKEN, OTHERS = "lenet5-digits", ["simple_cnn-digits", "two_block_cnn-digits"]
PIXELS = np.zeros((32, 32, 1), np.uint8)
SMALL_PIXELS = np.zeros((8, 8, 1), np.uint8)
FAILED = classifier_pb2.MODEL_STATE_FAILED
FOLDER_RIGHTS = "-dac_override,-dac_read_search"  # what lets root read what it may not
CLASSIFIER, INFERENCE = "/modelzoo.v1.ClassifierService", "/inference.GRPCInferenceService"
LIMIT_S = 60  # then a server that hangs is ended, and the test fails

Event = dict[str, object]


@contextmanager
def serving(repository: Path, prefix: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Event]]]:
    """Run `modelzoo serve` until it serves; gives its process id and the last event of every name."""
    command = [*prefix, sys.executable, "-m", "cli.main", "serve", "--repository", str(repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--device", "cpu"]
    events: dict[str, Event] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(LIMIT_S, process.kill)
        watchdog.start()
        try:
            for line in process.stderr:
                event = json.loads(line)
                events[event["event"]] = event
                if event["event"] == "serving":
                    break
            assert "serving" in events, "the server ended, or hung, before it served"
            yield process.pid, events
        finally:
            watchdog.cancel()
            process.kill()


def expect_one_failure(events: dict[str, Event], version: int, reason: str) -> None:
    """Check that one model failed, in one line, with a reason that a client can read; the others serve."""
    assert events["serving"]["models"] == OTHERS
    failure = events["model_failed"]
    assert failure.keys() == {"event", "level", "timestamp", "model", "version", "reason"}
    assert (failure["model"], failure["version"]) == (BROKEN, version)
    with Client(str(events["listening"]["grpc"])) as client:
        states = {model.name: model for model in client.list_models()}
        assert (states[BROKEN].state, states[BROKEN].version) == (FAILED, version)
        assert states[BROKEN].reason == failure["reason"]
        assert reason in states[BROKEN].reason
        assert len(client.classify(OTHERS[0], [SMALL_PIXELS])[0]) == 5
        with pytest.raises(ClientError) as caught:
            client.classify(BROKEN, [PIXELS])
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def rights() -> list[str]:
    """What to put before a command so that it may read only what its user may."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv to change that")
    return ["setpriv", f"--bounding-set={FOLDER_RIGHTS}", "--"]


@pytest.mark.parametrize(("inside", "version"), [("", 0), ("1", 1), ("1/model.onnx", 1)])
def test_a_model_that_may_not_be_read_fails_and_the_others_serve(
    scratch_repository: Path, rights: list[str], inside: str, version: int
) -> None:
    locked = scratch_repository / BROKEN / inside
    mode = locked.stat().st_mode
    locked.chmod(0)
    try:
        with serving(scratch_repository, rights) as (_, events):
            expect_one_failure(events, version, "cannot be read: permission denied for uid ")
    finally:
        locked.chmod(mode)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "labels.txt", "golden.npz"])
def test_a_pipe_in_the_place_of_a_file_fails_the_model_and_the_start_does_not_wait_for_it(
    scratch_repository: Path, name: str
) -> None:
    path = scratch_repository / BROKEN / "1" / name
    path.unlink()
    os.mkfifo(path)
    with serving(scratch_repository) as (_, events):
        expect_one_failure(events, 1, f"{name} cannot be read: not a regular file")


def test_what_onnx_runtime_says_of_a_network_is_one_line_of_the_log(scratch_repository: Path) -> None:
    folder = scratch_repository / BROKEN / "1"
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\x08\x63")  # a second ir_version, 99, which counts
    described = manifest.read(folder)
    described.precisions[0].file.CopyFrom(manifest.describe_file(folder / "model.onnx"))
    manifest.write(described, folder)
    with serving(scratch_repository) as (_, events):
        failure = events["model_failed"]
        assert failure.keys() == {"event", "level", "timestamp", "model", "version", "reason"}
        assert len(str(failure["reason"]).splitlines()) == 1
        assert "IR version: 99" in str(failure["reason"])


def peak_bytes(process_id: int) -> int:
    """Give the most memory that a process ever had."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells every process's peak")


def test_a_request_of_a_million_images_is_refused_before_it_costs_memory(repository: Path) -> None:
    """Two bytes an image; parsed, each would take some hundred."""
    flood = b"\x1a\x00" * (31 << 20)
    with serving(repository) as (process_id, events):
        address = str(events["listening"]["grpc"])
        with Client(address) as client, grpc.insecure_channel(address) as channel:
            assert len(client.classify(BROKEN, [PIXELS])[0]) == 5
            before = peak_bytes(process_id)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/modelzoo.v1.ClassifierService/Classify")(flood)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "request: more than 1040 fields, images included"
            # The message itself is 65 MB, and gRPC copies it once.
            assert peak_bytes(process_id) - before < 200e6
            assert len(client.classify(BROKEN, [PIXELS])[0]) == 5


@pytest.mark.parametrize("name", ["m" * 9_000, "é" * 4_500, "\x00" * 9_000, "\U0001f40d" * 2_000])
def test_a_name_without_end_is_not_found_and_the_client_can_say_so(server, name: str) -> None:
    with server.client() as client:
        for ask in (lambda: client.classify(name, [PIXELS]), lambda: client.get_model(name)):
            with pytest.raises(ClientError, match="no model is called ") as caught:
                ask()
            assert caught.value.code == grpc.StatusCode.NOT_FOUND
            assert len(str(caught.value)) < 2_100
        with pytest.raises(ClientError) as caught:
            client.is_serving(name)
        assert caught.value.code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("frontends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_text_of_megabytes_is_rejected_before_it_is_decoded(start_server, frontends: int) -> None:
    text = "m" * (1 << 21)
    infer = open_inference_pb2.ModelInferRequest
    requests = {
        f"{CLASSIFIER}/Classify": classifier_pb2.ClassifyRequest(model=text),
        f"{CLASSIFIER}/GetModel": classifier_pb2.GetModelRequest(name=text),
        f"{INFERENCE}/ModelInfer": infer(model_name=text),
        f"{INFERENCE}/ModelReady": open_inference_pb2.ModelReadyRequest(name=text),
        f"{INFERENCE}/ModelMetadata": open_inference_pb2.ModelMetadataRequest(name=text),
        "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(service=text),
    }
    streams = {
        f"{CLASSIFIER}/ClassifyStream": classifier_pb2.ClassifyStreamRequest(id=text),
        f"{INFERENCE}/ModelStreamInfer": infer(id=text),
    }
    running = start_server(frontends=frontends)
    with grpc.insecure_channel(running.address) as channel, running.client() as client:
        for path, request in requests.items():
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(request.SerializeToString())
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, path
            assert "not up to" in caught.value.details()
        for path, request in streams.items():
            [answer] = channel.stream_stream(path)(iter([request.SerializeToString()]))
            assert b"not up to" in answer
            assert len(answer) < 1_000
        assert len(client.classify(BROKEN, [PIXELS])[0]) == 5
