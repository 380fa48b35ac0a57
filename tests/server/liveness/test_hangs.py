"""What hangs is seen from outside: health says so, calls are refused with the reason, and it is replaced."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import Client, ClientError
from modelzoo.v1 import open_inference_pb2_grpc
from tests.server import group
from tests.server.frontends.test_frontends import tensor
from tests.server.frontends.test_frontends_process import lives, started
from tests.server.progress import wait_for

MODEL = "lenet5-digits"
BLANK = np.zeros((32, 32, 1), np.uint8)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# Far above what a busy machine keeps a process from running, far below what a test may take.
SILENCE_S = "2"


def watch(channel: grpc.Channel, name: str = ""):
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def go_on(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_front_ends_refuse_with_the_reason_while_the_engine_hangs_and_serve_when_it_goes_on(
    repository: Path,
) -> None:
    with started(repository, MODELZOO_HEARTBEAT_TIMEOUT_S=SILENCE_S) as servers:
        with Client(servers.address) as client, ThreadPoolExecutor(2) as pool:
            assert len(client.classify(MODEL, [BLANK])[0]) == 5
            statuses, model = watch(client._channel), watch(client._channel, MODEL)
            assert (next(statuses).status, next(model).status) == (SERVING, SERVING)
            stop(servers.process.pid)
            waiting = pool.submit(client.classify, MODEL, [BLANK], timeout_s=60)
            streamed = pool.submit(lambda: dict(client.classify_stream(MODEL, [BLANK])))
            assert (next(statuses).status, next(model).status) == (NOT_SERVING, NOT_SERVING)
            said = servers.until("engine_hangs")
            assert said["silent_s"] == 2.0
            for refused in (waiting.result, lambda: client.classify(MODEL, [BLANK])):
                with pytest.raises(
                    ClientError, match="the engine has given no sign of life for 2 s"
                ) as caught:
                    refused()
                assert caught.value.code == grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.RpcError) as failed:
                open_inference_pb2_grpc.GRPCInferenceServiceStub(client._channel).ModelInfer(
                    tensor(BLANK[None])
                )
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
            [answer] = streamed.result().values()
            assert "no sign of life" in str(answer)
            assert not client.is_serving()
            go_on(servers.process.pid)
            assert (next(statuses).status, next(model).status) == (SERVING, SERVING)
            assert len(client.classify(MODEL, [BLANK])[0]) == 5
        servers.process.terminate()
        assert servers.process.wait(60) == 0


@pytest.mark.slow
def test_a_front_end_that_hangs_is_killed_and_replaced(repository: Path) -> None:
    with started(repository, MODELZOO_HEARTBEAT_TIMEOUT_S=SILENCE_S) as servers:
        hung = servers.frontends[2]
        stop(hung)
        said = servers.until("frontend_hangs")
        assert (said["frontend"], said["pid"], said["silent_s"]) == (2, hung, 2.0)
        assert servers.until("frontend_ended")["cause"] == "signal 9 (SIGKILL)"
        assert servers.until("frontend_listening")["frontend"] == 2
        assert servers.frontends[2] != hung
        for _ in range(16):  # connections are spread over all that listen
            with Client(servers.address) as client:
                assert len(client.classify(MODEL, [BLANK])[0]) == 5
        servers.process.terminate()
        assert servers.process.wait(60) == 0


@pytest.mark.parametrize("frontends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_that_does_not_end_is_seen_by_health_log_and_metrics(
    start_server, gates, reading, frontends: int
) -> None:
    running = start_server(
        open_network=gates, frontends=frontends, batch_timeout_s=0.5, heartbeat_timeout_s=2.0
    )
    gates[MODEL].shut()
    with running.client() as client, ThreadPoolExecutor(1) as pool:
        statuses = watch(client._channel)
        assert next(statuses).status == SERVING
        answer = pool.submit(client.classify, MODEL, [BLANK] * 3)
        assert next(statuses).status == NOT_SERVING
        assert not client.is_serving(MODEL)
        [said] = group.logged(running, "lane_hangs")
        assert (said["model"], said["images"], said["limit_s"]) == (MODEL, 3, 0.5)
        assert any("infer" in line for line in said["stack"])
        assert "a batch of 3 images for lenet5-digits has been running" in running.server.healthy()
        assert reading(running, "modelzoo_faults") == 1
        assert reading(running, "modelzoo_running_images") == 3
        assert reading(running, "modelzoo_oldest_batch_seconds") > 0.5
        assert reading(running, "modelzoo_vital_task_failures_total", task="lane") == 1
        gates[MODEL].open_all()
        assert len(answer.result()) == 3
        assert next(statuses).status == SERVING
        assert running.server.healthy() == ""
        assert reading(running, "modelzoo_running_images") == 0


@pytest.mark.slow
def test_a_front_end_whose_frames_make_no_sense_is_replaced_and_the_cause_logged(
    start_server, reading
) -> None:
    running = start_server(frontends=2)
    first = group.pids(running)
    connection = group.supervisors(running)[0].connection
    running._loop.call_soon_threadsafe(connection._channel.data_received, b"\3\0\0\0\xff\xff\xff")
    wait_for(lambda: group.pids(running)[1] != first[1])
    [said] = group.logged(running, "vital_task_ended")
    assert (said["task"], said["cause"]) == ("connection", "DecodeError")
    assert reading(running, "modelzoo_vital_task_failures_total", task="connection") == 1
    for _ in range(8):
        with running.client() as client:
            assert len(client.classify(MODEL, [BLANK])[0]) == 5


@pytest.mark.parametrize("frontends", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_event_loop_that_is_blocked_is_seen_by_log_and_metrics(
    start_server, reading, frontends: int
) -> None:
    running = start_server(frontends=frontends, heartbeat_timeout_s=1.0)
    gate = threading.Event()

    def block_the_loop() -> None:
        assert gate.wait(60)

    running._loop.call_soon_threadsafe(block_the_loop)
    wait_for(lambda: reading(running, "modelzoo_faults") == 1)
    [said] = group.logged(running, "event_loop_blocked")
    assert any(line.endswith("block_the_loop") for line in said["stack"])
    assert running.server.healthy() == "the event loop has given no sign of life for 1 s"
    gate.set()
    wait_for(lambda: running.server.healthy() == "")
    assert group.logged(running, "frontend_hangs") == []  # it was this process that stood still
    with running.client() as client:
        assert len(client.classify(MODEL, [BLANK])[0]) == 5


HANGING = """
    import asyncio, os, sys, threading
    from pathlib import Path
    from server import process
    from server.config import Settings
    from server.errors import FrontendError
    from server.runtime.network import OnnxNetwork
    from server.observability import logs

    class Hanging:
        def __init__(self, *what):
            self.network = OnnxNetwork(*what)

        def infer(self, rows):
            if not rows[0].any():
                threading.Event().wait()
            return self.network.infer(rows)

    settings = Settings(
        repository=Path(sys.argv[1]), frontends=int(sys.argv[2]), grpc_port=0, metrics_port=0, device="cpu",
        max_loop_s=0.0, batch_timeout_s=0.5, heartbeat_timeout_s=2.0, grace_s=0.5, log_format="json",
    )

    async def main():
        try:
            await process.serve(settings, logs.make("json", sys.stderr), lambda *_: None, Hanging)
        except FrontendError as error:
            print(error, flush=True)
            os._exit(1)

    asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("frontends", [2])
def test_a_batch_that_never_ends_ends_the_process_for_the_orchestrator(
    repository: Path, frontends: int
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HANGING), str(repository), str(frontends)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        events = []
        for line in process.stderr:
            events.append(json.loads(line))
            if events[-1]["event"] == "serving":
                break
        [address] = [event["grpc"] for event in events if event["event"] == "listening"]
        with Client(address) as client:
            with pytest.raises(ClientError) as caught:
                client.classify(MODEL, [BLANK], timeout_s=60)
            assert caught.value.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        events += map(json.loads, process.stderr)
        assert process.wait(60) == 1
        assert process.stdout.read().startswith("a batch of 1 images for lenet5-digits has been running")
    names = [event["event"] for event in events]
    assert names.index("lane_hangs") < names.index("stopping") < names.index("stopped")
    [stopping] = [event for event in events if event["event"] == "stopping"]
    assert stopping["cause"].startswith("a batch of 1 images")
    pids = [event["pid"] for event in events if event["event"] == "frontend_listening"]
    assert len(pids) == frontends
    wait_for(lambda: not any(map(lives, pids)))
