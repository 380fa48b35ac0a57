"""How a server starts, reports itself and stops; and how one bad artifact leaves the others serving."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from artifact import golden, manifest
from client import Client, ClientError
from modelzoo.v1 import classifier_pb2
from server.errors import StartError
from tests.server.progress import wait_for

BROKEN, OTHERS = "lenet5-digits", ("simple_cnn-digits", "two_block_cnn-digits")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def change_a_byte(folder: Path) -> None:
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_the_network(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def add_an_unknown_field(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "green"}))


def publish_anew(folder: Path, **files: str) -> None:
    """Write the hashes of changed files into the manifest, as a careless publisher would."""
    described = manifest.read(folder)
    described.golden.CopyFrom(manifest.describe_file(folder / "golden.npz"))
    described.precisions[0].file.CopyFrom(manifest.describe_file(folder / "model.onnx"))
    manifest.write(described, folder)


def expect_other_answers(folder: Path) -> None:
    answers = golden.read(folder / "golden.npz")
    shifted = answers.probabilities.copy()
    shifted[3, 7] += 2e-5
    golden.write(folder / "golden.npz", golden.Golden(answers.images, shifted))
    publish_anew(folder)


def publish_what_is_no_network(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"not a network")
    publish_anew(folder)


def publish_the_network_of_another(folder: Path) -> None:
    shutil.copy(folder.parent.parent / OTHERS[0] / "1" / "model.onnx", folder / "model.onnx")
    publish_anew(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_a_byte, "model.onnx is not the file that was published"),
        (remove_the_network, "model.onnx cannot be read"),
        (remove_the_manifest, "manifest.json cannot be read"),
        (add_an_unknown_field, 'no field named "colour"'),
        (expect_other_answers, "answers differ from the reference's by up to 2e-05 (allowed 1e-05)"),
        (publish_what_is_no_network, "model.onnx is no ONNX file: "),
        (publish_the_network_of_another, "model.onnx takes tensor(uint8)"),
    ],
)
def test_a_damaged_artifact_fails_with_its_reason_and_the_others_serve(
    start_server, scratch_repository: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(scratch_repository / BROKEN / "1")
    running = start_server(repository=scratch_repository)
    assert running.ready == list(OTHERS)
    with running.client() as client:
        states = {model.name: model for model in client.list_models()}
        assert states[BROKEN].state == classifier_pb2.MODEL_STATE_FAILED
        assert reason in states[BROKEN].reason
        with pytest.raises(ClientError) as caught:
            client.classify(BROKEN, [np.zeros((32, 32, 1), np.uint8)])
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        assert reason in str(caught.value)
        assert len(client.classify(OTHERS[0], [np.zeros((8, 8, 1), np.uint8)])[0]) == 5
        assert not client.is_serving(BROKEN)
        assert client.is_serving(OTHERS[0])
        assert client.is_serving()


def test_the_newest_version_is_served(start_server, scratch_repository: Path) -> None:
    folder = scratch_repository / BROKEN
    shutil.copytree(folder / "1", folder / "10")
    described = json.loads((folder / "10/manifest.json").read_text()) | {"version": 10}
    (folder / "10/manifest.json").write_text(json.dumps(described))
    shutil.copytree(folder / "1", folder / "9")  # its manifest says 1; nobody looks
    running = start_server(repository=scratch_repository)
    pixels = np.zeros((32, 32, 1), np.uint8)
    with running.client() as client:
        assert client.classify_raw(BROKEN, [pixels]).version == 10
        assert client.classify_raw(BROKEN, [pixels], version=10).version == 10
        with pytest.raises(ClientError, match="no version 1 here, only 10"):
            client.classify(BROKEN, [pixels], version=1)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_repository_serves_and_says_that_it_is_not_ready(
    start_server, tmp_path: Path, exists: bool
) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    running = start_server(repository=folder)
    assert running.ready == []
    assert "no_model_ready" in running.log.getvalue()
    with running.client() as client:
        assert client.list_models() == []
        assert not client.is_serving()
        with pytest.raises(ClientError) as caught:
            client.classify(BROKEN, [b"x"])
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("port", ["grpc_port", "metrics_port"])
def test_a_port_in_use_stops_the_start_with_one_line(start_server, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{number}: address already in use"):
            start_server(**{port: number})


def test_two_servers_do_not_share_a_port(start_server, server) -> None:
    with pytest.raises(StartError, match="address already in use"):
        start_server(grpc_port=server.server.grpc_port)


def test_a_device_that_does_not_work_stops_the_start_and_says_why(start_server) -> None:
    with pytest.raises(StartError, match="device cuda:7 does not work: "):
        start_server(device="cuda:7")


def test_health_has_an_entry_per_model_and_one_for_the_server(server, exported) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *exported):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_describes_the_service_without_its_proto_files(server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="modelzoo.v1.ClassifierService"),
        ]
        listed, described = stub.ServerReflectionInfo(iter(requests))
    assert {service.name for service in listed.list_services_response.service} == {
        "modelzoo.v1.ClassifierService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in described.file_descriptor_response.file_descriptor_proto
    ]
    assert {method.name for file in files for s in file.service for method in s.method} == {
        "Classify",
        "ClassifyStream",
        "ListModels",
        "GetModel",
    }


def test_get_model_gives_manifest_and_labels(client: Client, exported) -> None:
    response = client.get_model(BROKEN)
    assert response.manifest == exported[BROKEN].manifest
    assert list(response.labels) == [str(digit) for digit in range(10)]
    assert response.status.state == classifier_pb2.MODEL_STATE_READY
    assert (response.status.precision, response.status.device) == ("fp32", "cpu")
    assert response.status.device_memory_bytes == 0


def test_a_stopping_server_answers_what_it_accepted_and_refuses_the_rest(start_server, gates) -> None:
    running = start_server(open_network=gates)
    pixels = np.zeros((32, 32, 1), np.uint8)
    gates[BROKEN].shut()
    with ThreadPoolExecutor() as pool, running.client() as client, running.client() as late:
        late.list_models()  # connected before the stop
        accepted = [pool.submit(client.classify, BROKEN, [pixels])]
        gates[BROKEN].entered.acquire()  # the lane is held by the first
        accepted += [pool.submit(client.classify, BROKEN, [pixels]) for _ in range(4)]
        queue = running.queue(BROKEN)
        wait_for(lambda: queue.waiting == 4)
        with grpc.insecure_channel(running.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watch).status == SERVING
            stopping = pool.submit(running.stop)
            assert next(watch).status == NOT_SERVING
            watch.cancel()
        with pytest.raises(ClientError) as caught:
            late.classify(BROKEN, [pixels])
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        gates[BROKEN].gate.set()
        assert [len(answer.result()[0]) for answer in accepted] == [5] * 5
        stopping.result()


def test_a_stop_waits_no_longer_than_its_grace(start_server, gates) -> None:
    running = start_server(open_network=gates, grace_s=0.2)
    gates[BROKEN].shut()
    with ThreadPoolExecutor() as pool, running.client() as client:
        held = pool.submit(client.classify, BROKEN, [np.zeros((32, 32, 1), np.uint8)])
        gates[BROKEN].entered.acquire()
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        stopping.join(15)  # the gate stays shut: without the grace's end it would wait for it
        assert not stopping.is_alive()
        with pytest.raises(ClientError) as caught:
            held.result()
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def start_process(repository: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_process_that_is_told_to_stop_while_it_loads_exits_0(repository: Path) -> None:
    options = ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--device", "cpu"]
    with start_process(repository, *options) as process:
        events = []
        for line in process.stderr:
            events.append(json.loads(line)["event"])
            if events[-1] == "listening":
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert events[-2:] == ["stopping", "stopped"]


@pytest.mark.parametrize(
    "signal_number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGHUP]
)
def test_a_process_that_is_told_to_stop_logs_its_life_and_exits_0(
    repository: Path, signal_number: signal.Signals
) -> None:
    options = ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--device", "auto"]
    with start_process(repository, *options) as process:
        events = []
        for line in process.stderr:
            events.append(json.loads(line))
            if events[-1]["event"] == "serving":
                for ignored in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
                    process.send_signal(ignored)
                process.send_signal(signal_number)
        assert process.wait() == 0
        assert process.stdout.read() == ""
    assert events[-2]["cause"] == signal_number.name
    names = [event["event"] for event in events]
    assert names[-6:] == ["model_ready", "model_ready", "model_ready", "serving", "stopping", "stopped"]
    assert "listening" in names
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events)


def test_a_process_that_cannot_start_says_why_in_one_line_and_exits_1(repository: Path, server) -> None:
    with start_process(repository, "--grpc-port", str(server.server.grpc_port), "--device", "cpu") as process:
        output, log = process.communicate()
    assert process.returncode == 1
    assert output == ""
    assert log.splitlines()[-1].startswith("modelzoo: cannot listen on 127.0.0.1:")
    assert "Traceback" not in log


@pytest.mark.slow
def test_with_json_what_ends_a_start_is_a_line_of_json_too(repository: Path, server) -> None:
    options = ["--grpc-port", str(server.server.grpc_port), "--device", "cpu", "--log-format", "json"]
    with start_process(repository, *options) as process:
        output, log = process.communicate()
    assert (process.returncode, output) == (1, "")
    last = json.loads(log.splitlines()[-1])
    assert last["event"] == "ended"
    assert last["reason"].startswith("cannot listen on 127.0.0.1:")


EARLY = """
import os, signal, sys
from server import shutdown
shutdown.on_stop_signal(lambda number: os._exit(0))
assert not any(name.startswith(("grpc", "onnxruntime")) for name in sys.modules)  # as early as can be
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
    os.kill(os.getpid(), number)
print("heeds", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_a_server_opens_ends_it_without_a_word(number: signal.Signals) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", EARLY], **pipes) as process:
        assert process.stdout.readline() == "heeds\n"
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_a_server_under_nohup_outlives_its_terminal() -> None:
    heeding = (
        "from server import shutdown; shutdown.on_stop_signal(print); print(signal.getsignal(signal.SIGHUP))"
    )
    under_nohup = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {heeding}"
    done = subprocess.run([sys.executable, "-c", under_nohup], capture_output=True, text=True, check=True)
    assert done.stdout == f"{signal.Handlers.SIG_IGN}\n"
