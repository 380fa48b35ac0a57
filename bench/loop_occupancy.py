"""How long a request holds the event loop, on which every other client waits.

    python -m bench.loop_occupancy lenet5-digits [--repository models] [--limit-ms 5]

A server in this process is sent large legal requests and hostile ones, one after the other. Of each, the
table has the callback of the loop that took most time of its thread (`time.thread_time`). Beside it stands
the same of a server on the same loop that receives the message, parses it, and does nothing: what is longer
than that by more than the limit makes the exit code 1. Both are called several times, by turns, and the best
of the one is held against the worst of the other, for the machine may be busy. The loop is asyncio's own,
because uvloop's callbacks cannot be measured one by one.
"""

import argparse
import asyncio
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.protobuf import symbol_database
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.loop_requests import Request, requests
from client.channels import open_channel
from server.app import Server
from server.config import Settings
from server.observability import logs

if TYPE_CHECKING:
    from _typeshed import HasFileno

_ROUNDS = 3
_TIMEOUT_S = 120.0  # of a request
_MESSAGE_BYTES = 64 << 20  # the server's default, which answers may have, too


class Held(NamedTuple):
    """A callback and the time of the loop's thread that it took."""

    duration_s: float
    name: str


class WatchedLoop(asyncio.SelectorEventLoop):
    """An event loop that knows its longest callback.

    Attributes:
        longest: since it was last forgotten.
    """

    longest = Held(0.0, "")

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back on the next turn, and measure."""
        return super().call_soon(self._measured, callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back on the next turn, from another thread, and measure."""
        return super().call_soon_threadsafe(self._measured, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at some time, and measure."""
        return super().call_at(when, self._measured, callback, *args, context=context)

    def add_reader(self, fd: "int | HasFileno", callback: Callable[..., object], *args: object) -> None:
        """Call back whenever there is something to read, and measure."""
        super().add_reader(fd, self._measured, callback, *args)

    def _measured(self, callback: Callable[..., object], *args: object) -> None:
        name = _name(callback)
        started_s = time.thread_time()
        try:
            callback(*args)
        finally:
            duration_s = time.thread_time() - started_s
            if duration_s > self.longest.duration_s:
                self.longest = Held(duration_s, name)


@dataclass(frozen=True)
class Outcome:
    """What a request did.

    Attributes:
        status: of its call.
        unavoidable_s: the longest callback of receiving and parsing its message, and nothing else.
        held: its longest callback.
    """

    request: Request
    status: str
    unavoidable_s: float
    held: Held

    def exceeds(self, limit_s: float) -> bool:
        """Return whether the loop was held for longer than it may."""
        return self.held.duration_s > limit_s + self.unavoidable_s


def main() -> int:
    """Send every request and print the table; 1 where one held the loop too long."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.loop_occupancy", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--limit-ms", type=float, default=5.0, help="beyond receiving and parsing")
    parser.add_argument("--only", default="", help="requests with this in their names")
    options = parser.parse_args()
    limit_s = options.limit_ms / 1000
    try:
        with _served(options.repository) as served:
            outcomes = [
                _measure(served, request)
                for request in requests(served.channel, options.model)
                if options.only in request.name
            ]
    except (BenchError, OSError, grpc.RpcError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    table = Table(title=f"{options.model}: the loop's longest callback, time of its thread", box=None)
    for column in ("request", "MB", "status", "ms", "unavoidable ms", "", "callback"):
        table.add_column(column, justify="right" if column in {"MB", "ms", "unavoidable ms"} else "left")
    for outcome in outcomes:
        table.add_row(
            outcome.request.name,
            f"{len(outcome.request.body) / 1e6:.1f}",
            outcome.status,
            f"{1e3 * outcome.held.duration_s:.1f}",
            f"{1e3 * outcome.unavoidable_s:.1f}",
            "too long" if outcome.exceeds(limit_s) else "",
            outcome.held.name,
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return int(any(outcome.exceeds(limit_s) for outcome in outcomes))


class _Served(NamedTuple):
    """A server and what asks it, and beside it the server that does nothing."""

    loop: WatchedLoop
    channel: grpc.Channel
    idle: grpc.Channel


def _measure(served: _Served, request: Request) -> Outcome:
    """Make a call several times to both servers, by turns."""
    held: list[Held] = []
    unavoidable: list[Held] = []
    for _ in range(_ROUNDS):
        _send(
            served,
            served.idle,
            request,
            "" if request.parsed is None else request.parsed.DESCRIPTOR.full_name,
        )
        unavoidable.append(served.loop.longest)
        status = _send(served, served.channel, request)
        held.append(served.loop.longest)
    return Outcome(request, status, max(unavoidable).duration_s, min(held))


def _send(served: _Served, channel: grpc.Channel, request: Request, idle: str | None = None) -> str:
    """Make one call, with what was held before forgotten; give its status."""
    served.loop.longest = Held(0.0, "")
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    stream: grpc.StreamStreamMultiCallable[bytes, bytes]
    try:
        if request.streamed and idle is None:
            stream = channel.stream_stream(request.method)
            list(stream(iter([request.body]), timeout=_TIMEOUT_S))
        else:
            unary = channel.unary_unary(request.method if idle is None else f"/idle/{idle}")
            unary(request.body, timeout=_TIMEOUT_S)
        status = "OK"
    except grpc.RpcError as error:
        status = error.code().name
    # The answer may be here before the callback that gave it has ended.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), served.loop).result()
    return status


class _Idle(grpc.GenericRpcHandler):
    """Answers every call with nothing, after its message was parsed as the method says."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Make the handler of a call."""
        name = handler_call_details.method.rpartition("/")[2]

        async def parse(body: bytes, context: object) -> bytes:
            del context
            if name:
                symbol_database.Default().GetSymbol(name).FromString(body)
            return b""

        return grpc.unary_unary_rpc_method_handler(parse)


@contextmanager
def _served(repository: Path) -> Iterator[_Served]:
    """Run both servers on a watched loop, in a thread.

    Raises:
        BenchError: the one does not start.
    """
    settings = Settings(
        repository=repository, grpc_port=0, metrics_port=0, device="cpu", allow_client_shm=True
    )
    loop, started, ended = WatchedLoop(), threading.Event(), asyncio.Event()
    problems: list[Exception] = []
    ports: list[int] = []  # of the server and of the idle one

    async def run() -> None:
        idle = grpc.aio.server(options=[("grpc.max_receive_message_length", _MESSAGE_BYTES)])
        idle.add_generic_rpc_handlers([_Idle()])
        idle_port = idle.add_insecure_port("127.0.0.1:0")
        try:
            await idle.start()
            server = Server(settings, logs.make("text", io.StringIO()))
            await server.open()
            await server.load()
            ports.extend((server.grpc_port, idle_port))
        except Exception as error:  # noqa: BLE001 - whatever it is, the bench says it
            problems.append(error)
            return
        finally:
            started.set()
        await ended.wait()
        await idle.stop(None)
        await server.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    started.wait()
    try:
        if problems:
            raise BenchError(f"the server did not start: {problems[0]}") from problems[0]
        with _channel(ports[0]) as channel, _channel(ports[1]) as idle:
            yield _Served(loop, channel, idle)
    finally:
        if not problems:
            loop.call_soon_threadsafe(ended.set)
        thread.join()


def _channel(port: int) -> grpc.Channel:
    sizes = ("grpc.max_receive_message_length", "grpc.max_send_message_length")
    return open_channel(f"127.0.0.1:{port}", [(size, _MESSAGE_BYTES) for size in sizes])


def _name(callback: Callable[..., object]) -> str:
    """Name a callback; of a task, the coroutine that goes on, innermost last."""
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return getattr(callback, "__qualname__", type(callback).__name__)
    names: list[str] = []
    coroutine: Any = task.get_coro()
    while (name := getattr(coroutine, "__qualname__", None)) is not None and name not in names[-1:]:
        names.append(name)
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(names[-3:])


if __name__ == "__main__":
    sys.exit(main())
