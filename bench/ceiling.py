"""What gRPC alone allows on this machine: a server that does nothing, under the loads of `modelzoo bench`.

    python -m bench.ceiling [--seconds 5] [--rounds 3]

No Python server answers more small requests than this one: grpc.aio on uvloop, generic handlers, bytes in
and out, no work. A call each (`h2load` asks where it is installed), and four streams of 32 outstanding.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.load import h2load
from bench.load.closed_loop import closed_loop
from bench.load.load import Load, Report, percentile_s
from bench.load.protocols import Classify
from bench.measured import processes
from modelzoo.v1 import classifier_pb2

MODEL = "ceiling"
_SMALL, _LARGE = np.zeros((28, 28, 1), np.uint8), np.zeros((224, 224, 3), np.uint8)
CALLS = Load(Classify(MODEL), [_SMALL], [{0}], outstanding=32)
STREAMS = replace(CALLS, outstanding=128, streams=4)
ONE_BY_CALL = replace(CALLS, pictures=[_LARGE], outstanding=1)
ONE_BY_STREAM = replace(ONE_BY_CALL, streams=1)
_RUN_S = 0.025
_WARM_UP_S = 0.5

Context = grpc.aio.ServicerContext[bytes, bytes]


async def _serve() -> None:
    """Answer until the process is killed; the port is the first thing that is printed."""
    labels = [classifier_pb2.LabelScore(label="0", probability=1.0)]
    response = classifier_pb2.ClassifyResponse(
        classifications=[classifier_pb2.Classification(labels=labels)],
        timing=classifier_pb2.Timing(batch_size=1),
    )
    answer = response.SerializeToString()
    streamed = classifier_pb2.ClassifyStreamResponse(response=response).SerializeToString()

    async def run(body: bytes) -> None:
        if len(body) >= _LARGE.nbytes:
            await asyncio.to_thread(time.sleep, _RUN_S)

    async def call(body: bytes, _context: Context) -> bytes:
        await run(body)
        return answer

    async def stream(_: object, context: Context) -> None:
        while isinstance(message := await context.read(), bytes):
            await run(message)
            await context.write(message[: 2 + message[1]] + streamed)  # the first field: the request's id

    service, _, method = Classify.method[1:].partition("/")
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        method: grpc.unary_unary_rpc_method_handler(call),
        Classify.stream_method.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


@contextmanager
def _served() -> Iterator[tuple[str, int]]:
    """Start the server; give its address and its process."""
    command = [sys.executable, "-m", "bench.ceiling", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            port = (process.stdout and process.stdout.readline()) or ""
            if not port:
                raise BenchError("the server did not start")
            yield f"127.0.0.1:{port.strip()}", process.pid
        finally:
            process.kill()


def _measure(load: Load, address: str, pid: int) -> tuple[Report, float]:
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
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(_serve())
        return 0
    ways = {
        "a call each": CALLS,
        "streams": STREAMS,
        "one by one, calls": ONE_BY_CALL,
        "one by one, a stream": ONE_BY_STREAM,
    }
    found: dict[str, list[tuple[Report, float]]] = {name: [] for name in ways}
    try:
        with _served() as (address, pid):
            for _ in range(options.rounds):
                for name, load in ways.items():
                    timed = replace(load, seconds=options.seconds, warm_up_s=_WARM_UP_S)
                    found[name].append(_measure(timed, address, pid))
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
        p50_s -= _RUN_S if ways[name].outstanding == 1 else 0.0
        errors = sum(report.errors for report, _ in rounds)
        figures = (f"{rate:,.0f}", f"{capacity:,.0f}", f"{1e3 * p50_s:.2f}")
        table.add_row(name, *figures, rounds[0][0].generator, str(errors))
    Console().print(table)
    return int(any(report.errors for rounds in found.values() for report, _ in rounds))


if __name__ == "__main__":
    sys.exit(main())
