"""What was accepted is answered, whatever the signal and whatever state the server and its log are in."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from client import Client
from modelzoo.v1 import classifier_pb2, open_inference_pb2_grpc
from modelzoo.v1 import open_inference_pb2 as messages
from server.config import Settings
from tests.conftest import Running
from tests.server.progress import wait_for

MODEL, LATER = "lenet5-digits", "two_block_cnn-digits"
LOADING = classifier_pb2.MODEL_STATE_LOADING
BLANK = np.zeros((32, 32, 1), np.uint8)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CALLS, STREAMED = 10, 10

# A server whose networks hold blank pictures until a file is there; the model named loads no sooner, either.
HELD = """
    import asyncio, os, sys, time
    from pathlib import Path
    from server import config, process
    from server.runtime.network import OnnxNetwork
    from server.observability import capture, logs

    gate, held = Path(sys.argv[2]), sys.argv[3]

    def wait():
        while not gate.exists():
            time.sleep(0.01)

    class Held:
        def __init__(self, path, manifest, *more):
            if manifest.name == held:
                wait()
            self.network = OnnxNetwork(path, manifest, *more)

        def infer(self, rows):
            if not rows[0].any():
                wait()
            return self.network.infer(rows)

    settings = config.load(
        {
            "repository": sys.argv[1], "device": "cpu", "lanes": 2, "max_loop_s": 0.0, "log_format": "json",
            "allow_model_control": True,
        }
    )

    async def main():
        stderr = capture.StandardError()
        await process.serve(settings, logs.make("json", stderr.stream), lambda *_: None, Held)
        os._exit(0)

    asyncio.run(main())
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def log_to(state: str) -> Iterator[int]:
    """Give a descriptor for the log, in such a state."""
    with ExitStack() as stack:
        if state == "full":
            yield stack.enter_context(Path("/dev/full").open("w")).fileno()
            return
        ours, theirs = os.pipe()
        stack.callback(os.close, theirs)
        if state == "closed":
            os.close(ours)
        else:  # nobody reads, and it is full
            stack.callback(os.close, ours)
            os.set_blocking(theirs, False)
            try:
                while True:
                    os.write(theirs, b"x" * 4096)
            except BlockingIOError:
                os.set_blocking(theirs, True)
        yield theirs


def held_images(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
    wanted = ("modelzoo_queue_images", "modelzoo_running_images")
    return sum(sample.value for family in families for sample in family.samples if sample.name in wanted)


@pytest.mark.parametrize(
    ("number", "log", "frontends", "loading"),
    [
        (signal.SIGTERM, "full", 0, ""),
        pytest.param(signal.SIGINT, "closed", 0, LATER, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "unread", 2, LATER, marks=pytest.mark.slow),
    ],
)
def test_whatever_was_accepted_before_a_signal_is_answered(
    repository: Path, tmp_path: Path, number: signal.Signals, log: str, frontends: int, loading: str
) -> None:
    ports = {"GRPC": free_port(), "METRICS": free_port()}
    environment = {f"MODELZOO_{name}_PORT": str(port) for name, port in ports.items()}
    gate = tmp_path / "gate"
    served = tmp_path / "models"
    shutil.copytree(repository / MODEL, served / MODEL)
    command = [sys.executable, "-c", textwrap.dedent(HELD), str(served), str(gate), loading]
    with log_to(log) as stderr, ThreadPoolExecutor(CALLS + 2) as pool:
        process = subprocess.Popen(
            command, stderr=stderr, env=os.environ | environment | {"MODELZOO_FRONTENDS": str(frontends)}
        )
        try:
            with Client(f"127.0.0.1:{ports['GRPC']}") as client:
                statuses = until_serving(client._channel)
                if loading:
                    shutil.copytree(repository / loading, served / loading)
                    pool.submit(load, client._channel, loading)  # until the end of the server
                    wait_for(lambda: any(one.state == LOADING for one in client.list_models()))
                calls: list[Future] = [
                    pool.submit(client.classify, MODEL, [BLANK], timeout_s=60) for _ in range(CALLS)
                ]
                stream = pool.submit(lambda: dict(client.classify_stream(MODEL, [BLANK] * STREAMED)))
                wait_for(lambda: held_images(ports["METRICS"]) == CALLS + STREAMED)
                process.send_signal(number)
                assert next(statuses).status == NOT_SERVING
                gate.touch()
                assert [len(call.result()[0]) for call in calls] == [5] * CALLS
                assert [len(labels) for labels in stream.result().values()] == [5] * STREAMED
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def load(channel: grpc.Channel, model: str) -> None:
    """Load a model that is on disk."""
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=model))


def until_serving(channel: grpc.Channel) -> Iterator[health_pb2.HealthCheckResponse]:
    """Wait for the model to serve; give what follows."""
    request = health_pb2.HealthCheckRequest(service=MODEL)
    statuses = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True)
    while next(statuses).status != SERVING:
        pass
    return statuses


class Unwritable(io.StringIO):
    """A log on a full disk."""

    def write(self, text: str) -> int:
        raise OSError("no space left on device")


@pytest.mark.parametrize("frontends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_model_is_loaded_and_unloaded_although_the_log_cannot_be_written(
    repository: Path, frontends: int
) -> None:
    settings = Settings(
        repository=repository,
        grpc_port=0,
        metrics_port=0,
        device="cpu",
        frontends=frontends,
        allow_model_control=True,
    )
    running = Running(settings, log=Unwritable())
    try:
        assert running.error is None
        with running.client() as client:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(client._channel)
            for _ in range(2):
                assert len(client.classify(MODEL, [BLANK])[0]) == 5
                stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name=MODEL))
                states = {model.name: model.state for model in client.list_models()}
                assert states[MODEL] == classifier_pb2.MODEL_STATE_UNLOADED
                stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=MODEL))
    finally:
        running.stop()
