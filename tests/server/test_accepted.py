"""What was accepted is answered, whatever the signal and whatever state the server and its log are in."""

import json
import os
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
from tests.server.progress import wait_for

MODEL, LATER = "lenet5-digits", "two_block_cnn-digits"
BLANK = np.zeros((32, 32, 1), np.uint8)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CALLS, STREAMED = 10, 10

# A server whose networks hold blank pictures until a file is there; the models named load no sooner, either.
HELD = """
    import asyncio, os, sys, time
    from pathlib import Path
    from server import process
    from server.config import Settings
    from server.network import OnnxNetwork
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

    settings = Settings(repository=Path(sys.argv[1]), device="cpu", lanes=2, log_format="json")

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
def log_to(state: str, folder: Path) -> Iterator[int]:
    """Give a descriptor for the log, in such a state."""
    with ExitStack() as stack:
        if state in {"file", "full"}:
            path = folder / "log" if state == "file" else Path("/dev/full")
            yield stack.enter_context(path.open("w")).fileno()
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
        pytest.param(signal.SIGHUP, "file", 0, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "closed", 0, LATER, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "unread", 2, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "full", 2, LATER, marks=pytest.mark.slow),
    ],
)
def test_whatever_was_accepted_before_a_signal_is_answered(
    repository: Path, tmp_path: Path, number: signal.Signals, log: str, frontends: int, loading: str
) -> None:
    ports = {"GRPC": free_port(), "METRICS": free_port()}
    environment = {f"MODELZOO_{name}_PORT": str(port) for name, port in ports.items()}
    gate = tmp_path / "gate"
    command = [sys.executable, "-c", textwrap.dedent(HELD), str(repository), str(gate), loading]
    with log_to(log, tmp_path) as stderr, ThreadPoolExecutor(CALLS + 1) as pool:
        process = subprocess.Popen(
            command, stderr=stderr, env=os.environ | environment | {"MODELZOO_FRONTENDS": str(frontends)}
        )
        try:
            with Client(f"127.0.0.1:{ports['GRPC']}") as client:
                statuses = until_serving(client._channel)
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
    if log == "file":
        events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [event["event"] for event in events][-2:] == ["stopping", "stopped"]
        assert events[-2]["cause"] == number.name


def until_serving(channel: grpc.Channel) -> Iterator[health_pb2.HealthCheckResponse]:
    """Wait for the model to serve; give what follows."""
    request = health_pb2.HealthCheckRequest(service=MODEL)
    statuses = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True)
    while next(statuses).status != SERVING:
        pass
    return statuses
