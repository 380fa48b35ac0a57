"""Loads on real servers: what is asked, what is counted, and what becomes of servers that fail."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.load.closed_loop import closed_loop
from bench.load.load import Load, Report
from bench.load.open_loop import open_loop, poisson

NAME = "simple_cnn-digits"
pytestmark = pytest.mark.serves(NAME)
WAYS = pytest.mark.parametrize("streams", [0, 3], ids=["calls", "streams"])


def asked_at_once(load: Load, address: str) -> Report:
    """An open loop, forty requests in a tenth of a second."""
    return open_loop(load, np.linspace(0, 0.1, 40), address)


LOOPS = pytest.mark.parametrize("run", [closed_loop, asked_at_once], ids=["closed", "open"])


@WAYS
def test_a_closed_loop_asks_as_often_as_it_should_and_every_answer_is_right(
    start_server, make_load, streams: int
) -> None:
    running = start_server(model_batch_sizes={NAME: [32]})  # whatever the machine measures
    load = make_load(outstanding=5, requests=61, images_per_request=4, streams=streams, seconds=100)
    done = closed_loop(load, running.address)
    assert (done.answered, done.errors) == (61, 0)
    assert (done.latencies_s > 0).all()
    assert done.client_cpu_s > 0
    assert 4 <= done.mean_batch <= 32
    assert done.generator == "python"


def test_a_closed_loop_stops_at_its_time_and_measures_what_came_after_the_warm_up(server, make_load) -> None:
    done = closed_loop(make_load(outstanding=4, warm_up_s=0.1, seconds=0.4), server.address)
    assert done.errors == 0
    assert done.measured_s == (0.1, 0.5)
    assert 0 < len(done.measured_latencies_s) < done.answered
    assert done.asked_s.max() < 0.5


@WAYS
def test_an_open_loop_asks_at_the_planned_times(server, make_load, streams: int) -> None:
    arrivals_s = poisson(200, 0.5, seed=0)
    done = open_loop(make_load(streams=streams, images_per_request=2), arrivals_s, server.address)
    assert (done.answered, done.errors) == (len(arrivals_s), 0)
    assert sorted(done.asked_s) == arrivals_s.tolist()
    assert len(done.lags_s) == len(arrivals_s)
    assert (done.lags_s >= 0).all()


def test_nothing_arrives_and_nothing_is_answered(server, make_load) -> None:
    done = open_loop(make_load(), np.zeros(0), server.address)
    assert (done.answered, done.errors) == (0, 0)


@LOOPS
@WAYS
def test_wrong_answers_are_counted_and_no_latency_of_theirs(
    server, make_load, run: Callable[[Load, str], Report], streams: int
) -> None:
    right = make_load().labels
    labels = [right[0], *({(next(iter(label)) + 1) % 10} for label in right[1:])]
    load = make_load(labels=labels, outstanding=2, requests=32, streams=streams, seconds=100)
    done = run(load, server.address)
    planned = 32 if run is closed_loop else 40
    right_ones = 1 + (planned - 1) // 16  # the first of the sixteen pictures
    assert done.answered == right_ones
    assert done.wrong == done.errors == planned - right_ones


def test_where_two_labels_are_right_both_are(server, make_load) -> None:
    labels = [{*label, 10} for label in make_load().labels]
    done = closed_loop(make_load(labels=labels, requests=16, seconds=100), server.address)
    assert (done.answered, done.errors) == (16, 0)


def test_a_request_with_one_wrong_image_is_wrong(server, make_load) -> None:
    right = make_load().labels
    labels = [*right[:15], {(next(iter(right[15])) + 1) % 10}]
    load = make_load(labels=labels, images_per_request=16, requests=16, seconds=100)
    assert closed_loop(load, server.address).wrong == 16


@LOOPS
@WAYS
def test_refusals_are_counted_by_status_and_the_others_answered(
    server, make_load, run: Callable[[Load, str], Report], streams: int
) -> None:
    usual = make_load()
    pictures = [usual.pictures[0], b"no picture"]
    load = make_load(
        pictures=pictures, labels=usual.labels[:2], outstanding=3, requests=40, streams=streams, seconds=100
    )
    done = run(load, server.address)
    assert done.refused == {"INVALID_ARGUMENT": 20}
    assert done.messages == {"INVALID_ARGUMENT": "images[0]: neither a JPEG, a PNG nor a WebP file"}
    assert (done.answered, done.errors) == (20, 20)


@WAYS
def test_an_unknown_model_is_refused_as_often_as_it_is_asked(server, make_load, streams: int) -> None:
    done = closed_loop(make_load("nobody", requests=20, streams=streams, seconds=100), server.address)
    assert (done.answered, done.refused) == (0, {"NOT_FOUND": 20})
    assert done.images_per_s() == 0


def test_a_picture_that_is_none_ends_the_load_before_it_begins(server, make_load) -> None:
    load = make_load(pictures=[np.zeros((8, 8, 1))], labels=[{0}])
    with pytest.raises(TypeError, match="float64"):
        closed_loop(load, server.address)


@LOOPS
def test_a_late_answer_is_a_refusal(
    start_server, make_load, gate, run: Callable[[Load, str], Report]
) -> None:
    running = start_server(open_network=gate.open_network)
    gate.shut()
    load = make_load(deadline_s=0.3, outstanding=40, requests=40, seconds=100)
    done = run(load, running.address)
    gate.open()
    assert (done.answered, done.refused, done.hung) == (0, {"DEADLINE_EXCEEDED": 40}, 0)


class Ending(grpc.GenericRpcHandler):
    """Ends every stream after its first message, with a status; counts them."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self.messages = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self._end)

    def _end(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.messages += 1
        next(messages)
        context.set_code(self._code)
        context.set_details("no more")
        return iter(())


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK])
def test_a_stream_that_ended_is_asked_no_more(make_load, code: grpc.StatusCode) -> None:
    handler = Ending(code)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    load = make_load(outstanding=4, streams=2, seconds=60)
    done = closed_loop(load, f"127.0.0.1:{port}")
    server.stop(None).wait()
    status = "UNKNOWN" if code is grpc.StatusCode.OK else code.name
    assert (done.answered, done.wrong, done.hung, done.refused.total()) == (0, 0, 0, 4)
    assert set(done.refused) <= {status, "INTERNAL"}  # the latter is gRPC's for a write that came too late
    message = "the stream ended" if code is grpc.StatusCode.OK else "no more"
    assert done.messages.get(status, message) == message
    assert handler.messages == 2


class Silent(grpc.GenericRpcHandler):
    """Takes whatever comes, and never answers until it is told to stop."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if handler_call_details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._listen)
        return grpc.unary_unary_rpc_method_handler(self._wait)

    def _listen(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.told.set)
        self.told.wait()
        return iter(())

    def _wait(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.told.wait()
        return b""


@pytest.fixture
def silent_address() -> Iterator[str]:
    handler = Silent()
    server = grpc.server(ThreadPoolExecutor(64), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    handler.told.set()
    server.stop(None).wait()


@LOOPS
@WAYS
def test_what_is_never_answered_hangs(
    silent_address: str, make_load, run: Callable[[Load, str], Report], streams: int
) -> None:
    load = make_load(outstanding=40, seconds=0.1, streams=streams, patience_s=0.3)
    done = run(load, silent_address)
    assert (done.answered, done.hung, done.errors) == (0, 40, 40)


@LOOPS
def test_nobody_at_the_address_ends_the_load_before_it_begins(
    make_load, run: Callable[[Load, str], Report]
) -> None:
    with pytest.raises(ConnectionError, match=r"^no server answers at 127\.0\.0\.1:1$"):
        run(make_load(), "127.0.0.1:1")


@pytest.fixture
def process(repository: Path) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """A server in a process of its own, its address and its metrics page."""
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository), "--device", "cpu"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said: dict[str, str] = {}
        while said.get("event") != "serving":
            said |= json.loads(process.stderr.readline())
        yield process, said["grpc"], said["metrics"]
        process.kill()


@pytest.mark.parametrize("loop", ["closed", "open"])
@WAYS
def test_a_server_that_dies_leaves_refusals_and_nobody_hangs(
    process: tuple["subprocess.Popen[str]", str, str], make_load, streams: int, loop: str
) -> None:
    running, address, _ = process
    load = make_load(outstanding=8, streams=streams, seconds=60)
    killer = threading.Timer(0.5, running.kill)
    killer.start()
    if loop == "closed":
        done = closed_loop(load, address)
    else:
        done = open_loop(load, poisson(100, 1.5, seed=0), address)
    killer.join()
    assert done.hung == done.wrong == 0
    assert set(done.refused) <= {"UNAVAILABLE", "CANCELLED"}
    assert done.refused.total() > 0
    if loop == "closed":
        assert done.refused.total() == 8
    else:
        assert done.answered + done.refused.total() == len(done.lags_s)
