"""What gRPC alone allows on this machine: a server that does nothing, under the loads of `modelzoo bench`.

    python -m bench.ceiling [--seconds 5] [--rounds 3]

No Python server answers more small requests than this one: grpc.aio on uvloop, generic handlers, bytes in
and out, no work. A call each (`h2load` asks where it is installed), and four streams of 32 outstanding;
beside each the same with the server's own rpc room around it, so that its price is seen, too.
Pictures of 224 x 224 come one by one; for each a thread sleeps as long as a network might run, and the p50
is what is added to that sleep. Prints the median round.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import grpc
import numpy as np
import uvloop
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.load import h2load
from bench.load.closed_loop import closed_loop
from bench.load.load import Load, Report, percentile_s
from bench.load.protocols import Classify
from bench.measured import processes
from modelzoo.v1 import classifier_pb2
from server import ports
from server.config import Settings
from server.errors import ModelZooError
from server.grpc_server import bounds_of
from server.observability import logs
from server.observability.metrics import Metrics
from server.rpc import statuses
from server.rpc.calls import Calls
from server.rpc.handlers import Handlers
from server.rpc.in_flight import InFlight
from server.rpc.limits import Limits
from server.rpc.streams import Answers
from server.rpc.transports.grpc_aio import GrpcAio

MODEL = "ceiling"
_SMALL, _LARGE = np.zeros((28, 28, 1), np.uint8), np.zeros((224, 224, 3), np.uint8)
CALLS = Load(Classify(MODEL), [_SMALL], [{0}], outstanding=32)
STREAMS = replace(CALLS, outstanding=128, streams=4)
ONE_BY_CALL = replace(CALLS, pictures=[_LARGE], outstanding=1)
ONE_BY_STREAM = replace(ONE_BY_CALL, streams=1)
_RUN_S = 0.025
_WARM_UP_S = 0.5

_SERVICE, _, _METHOD = Classify.method[1:].partition("/")
_STREAM_METHOD = Classify.stream_method.rpartition("/")[2]

Context = grpc.aio.ServicerContext[bytes, bytes]


def _answers() -> tuple[bytes, bytes]:
    """Return what is answered to a call, and to a message of a stream, but for the request's id."""
    labels = [classifier_pb2.LabelScore(label="0", probability=1.0)]
    response = classifier_pb2.ClassifyResponse(
        classifications=[classifier_pb2.Classification(labels=labels)],
        timing=classifier_pb2.Timing(batch_size=1),
    )
    streamed = classifier_pb2.ClassifyStreamResponse(response=response)
    return response.SerializeToString(), streamed.SerializeToString()


async def _run(body: bytes) -> None:
    if len(body) >= _LARGE.nbytes:
        await asyncio.to_thread(time.sleep, _RUN_S)


def _say(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


async def _serve_bare() -> None:
    """Answer until the process is killed; the port is the first thing that is printed."""
    answer, streamed = _answers()

    async def call(body: bytes, _context: Context) -> bytes:
        await _run(body)
        return answer

    async def stream(_: object, context: Context) -> None:
        while isinstance(message := await context.read(), bytes):
            await _run(message)
            await context.write(message[: 2 + message[1]] + streamed)  # the first field: the request's id

    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        _METHOD: grpc.unary_unary_rpc_method_handler(call),
        _STREAM_METHOD: grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _say(port)
    await server.wait_for_termination()


async def _serve_with_rpc() -> None:
    """Do the same inside the server's own rpc room: its port, admission, deadlines, streams and metrics."""
    answer, streamed = _answers()

    async def call(body: bytes, _deadline_s: float | None) -> bytes:
        await _run(body)
        return answer

    async def message(body: bytes, _deadline_s: float | None) -> bytes:
        await _run(body)
        return body[: 2 + body[1]] + streamed

    def failed(_request: bytes | None, error: ModelZooError) -> classifier_pb2.ClassifyStreamResponse:
        return classifier_pb2.ClassifyStreamResponse(error=statuses.describe(error))

    log = logs.make("text", sys.stderr)
    metrics = Metrics(CollectorRegistry())
    settings = Settings()
    limits = Limits(
        settings.max_concurrent_calls,
        settings.max_calls_per_connection,
        settings.max_bytes_per_connection,
        settings.max_idle_s,
        settings.max_connections,
    )
    calls = Calls(limits, InFlight(settings.max_bytes_in_flight), log, metrics.peer_limited)
    handlers = Handlers(metrics, log, calls)
    answers = Answers(bytes, message, failed)
    methods = {
        f"/{_SERVICE}/{_METHOD}": handlers.unary(_SERVICE, _METHOD, bytes, call),
        f"/{_SERVICE}/{_STREAM_METHOD}": handlers.stream(_SERVICE, _STREAM_METHOD, answers),
    }
    with ports.reserve("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        bounds = bounds_of(settings, settings.max_message_bytes, settings.max_connections)
        address = ports.address_of("127.0.0.1", port)
        transport = GrpcAio(address, bounds, methods, handlers.unknown())
        await transport.open()
        _say(port)
        await transport.accept()


@contextmanager
def served(kind: str) -> Iterator[tuple[str, int]]:
    """Start a server; give its address and its process."""
    command = [sys.executable, "-m", "bench.ceiling", "--serve", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            port = (process.stdout and process.stdout.readline()) or ""
            if not port:
                raise BenchError("the server did not start")
            yield f"127.0.0.1:{port.strip()}", process.pid
        finally:
            process.kill()


_SERVERS: dict[str, Callable[[], Coroutine[None, None, None]]] = {"bare": _serve_bare, "rpc": _serve_with_rpc}


def measure(load: Load, address: str, pid: int) -> tuple[Report, float]:
    """Run a load; give what was answered, and how many requests for a second of the server's processors."""
    before_s = processes.cpu_s(pid)
    by_hand = load.streams or load.outstanding == 1 or not h2load.installed()
    ask = closed_loop if by_hand else h2load.closed_loop
    report = ask(load, address)
    return report, report.answered / (processes.cpu_s(pid) - before_s)


def main() -> int:
    """Run the rounds and print the table; 1 where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.ceiling", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=_SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(_SERVERS[options.serve]())
        return 0
    ways = {
        "a call each": (CALLS, "bare"),
        "a call each, our rpc": (CALLS, "rpc"),
        "streams": (STREAMS, "bare"),
        "streams, our rpc": (STREAMS, "rpc"),
        "one by one, calls": (ONE_BY_CALL, "bare"),
        "one by one, a stream": (ONE_BY_STREAM, "bare"),
    }
    found: dict[str, list[tuple[Report, float]]] = {name: [] for name in ways}
    try:
        with ExitStack() as stack:
            servers = {kind: stack.enter_context(served(kind)) for kind in _SERVERS}
            for _ in range(options.rounds):
                for name, (load, kind) in ways.items():
                    timed = replace(load, seconds=options.seconds, warm_up_s=_WARM_UP_S)
                    found[name].append(measure(timed, *servers[kind]))
    except (BenchError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    silent = [name for name, rounds in found.items() for report, _ in rounds if not report.answered]
    if silent:
        sys.stderr.write(f"nothing was answered to: {', '.join(dict.fromkeys(silent))}\n")
        return 1
    title = f"a server that does nothing, {platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=title, box=None)
    for column in ("way", "requests/s", "per server CPU s", "p50 ms", "asked by", "errors"):
        table.add_column(column, justify="right")
    for name, rounds in found.items():
        rate = statistics.median(report.images_per_s() for report, _ in rounds)
        capacity = statistics.median(capacity for _, capacity in rounds)
        p50_s = statistics.median(percentile_s(report.measured_latencies_s, 50) for report, _ in rounds)
        p50_s -= _RUN_S if ways[name][0].outstanding == 1 else 0.0
        errors = sum(report.errors for report, _ in rounds)
        figures = (f"{rate:,.0f}", f"{capacity:,.0f}", f"{1e3 * p50_s:.2f}")
        table.add_row(name, *figures, rounds[0][0].generator, str(errors))
    Console().print(table)
    return int(any(report.errors for rounds in found.values() for report, _ in rounds))


if __name__ == "__main__":
    sys.exit(main())
