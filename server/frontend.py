"""A front end: a process that speaks gRPC, decodes, ranks, and has the engine do the rest.

The engine starts it (`child`) and tells it everything; it reads no settings and no environment of its own.
It ends when the engine says so, or has ended.
"""

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry, disable_created_metrics
from structlog.typing import FilteringBoundLogger

from modelzoo.v1 import frontend_pb2
from server import logs
from server.arena import Arena
from server.channel import Channel
from server.config import Settings
from server.engine import Engine
from server.front import Front
from server.grace import Grace
from server.metrics import Metrics
from server.replica import Replica
from server.reports import Reporter

_LAST_WORDS_S = 0.5  # that the calls have to be refused once the engine has ended


class Frontend:
    """The process; `run` it once.

    Args:
        memory: descriptor of the memory that it shares with the engine.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._channel = Channel(frontend_pb2.FrontendFrame, frontend_pb2.EngineFrame, self._hear)
        self._welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told_to_stop = asyncio.Event()
        self._grace = Grace()
        self._one_report = asyncio.Lock()
        self._reporting: set[asyncio.Task[None]] = set()

    async def run(self, end: socket.socket) -> int:
        """Serve until the engine says that it is enough, or has ended; give the exit code."""
        await self._channel.connect(end)
        engine_ended = asyncio.ensure_future(self._channel.ended.wait())
        beginnings: list[asyncio.Future[Any]] = [self._welcomed, engine_ended]
        await asyncio.wait(beginnings, return_when=asyncio.FIRST_COMPLETED)
        if not self._welcomed.done():
            return 1
        try:
            await self._front.open(self._port, shared=True)
        except RuntimeError as error:  # gRPC's
            self._channel.pending.failure = str(error).partition("\n")[0]
            self._channel.close()
            return 1
        self._channel.pending.listening = True
        stopping = asyncio.ensure_future(self._stop())
        ends: list[asyncio.Future[Any]] = [stopping, engine_ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            self._channel.close()
            await engine_ended
            return 0
        self._log.error("engine_ended", consequence="this front end ends, too")
        self._engine.end()
        self._models.drain()
        await self._front.close(_LAST_WORDS_S)
        return 1

    async def _stop(self) -> None:
        """Wait until it is time, then answer what was accepted, and say what was counted."""
        await self._told_to_stop.wait()
        await self._front.stop(self._grace)
        await self._report()

    def _hear(self, frame: frontend_pb2.EngineFrame) -> None:
        if frame.HasField("welcome"):
            self._meet(frame.welcome)
        for sent in frame.models:
            self._models.hear(sent)
            self._front.health.set_model(sent.status.name, sent.status.state)
        for name in frame.removed:
            self._models.forget(name)
            self._front.health.forget_model(name)
        if frame.HasField("serving"):
            self._front.health.set_server(serving=frame.serving)
        if frame.HasField("state"):
            self._channel.pending.seen = frame.state
        self._engine.hear(frame)
        if frame.report_wanted:
            task = asyncio.get_running_loop().create_task(self._report())
            self._reporting.add(task)
            task.add_done_callback(self._reporting.discard)
        if frame.HasField("stop_by_s"):
            self._grace.ends_s = frame.stop_by_s
            self._told_to_stop.set()
        if frame.hurry:
            self._grace.hurried.set()

    def _meet(self, welcome: frontend_pb2.Welcome) -> None:
        """Build everything."""
        settings = Settings.model_validate_json(welcome.settings)
        self._log = _logger(settings, welcome.number)
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        self._reporter = Reporter(registry)
        self._port = welcome.port
        self._engine = Engine(self._channel, Arena(self._memory, welcome.memory_bytes), welcome.memory_bytes)
        os.close(self._memory)
        self._models = Replica(self._engine, self._channel, metrics, settings.max_queue_size)
        self._front = Front(settings, metrics, self._models, self._engine, self._engine.statistics, self._log)
        self._welcomed.set_result(None)

    async def _report(self) -> None:
        async with self._one_report:  # on a thread, because it takes some milliseconds
            samples = await asyncio.to_thread(self._reporter.changes)
        report = self._channel.pending.report
        report.samples.extend(samples)
        report.requests.extend(self._models.statistics())


def main() -> None:
    """Run a front end on the descriptors that the command line names, and end the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the engine hears them, too, and says when to stop
    disable_created_metrics()  # type: ignore[no-untyped-call] # as in the engine
    end, memory = map(int, sys.argv[1:])

    async def run() -> None:
        code = await Frontend(memory).run(socket.socket(fileno=end))
        # As `modelzoo serve` does: a thread that still decodes would hold up the interpreter's own way out.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    uvloop.run(run())


def _logger(settings: Settings, number: int) -> FilteringBoundLogger:
    return logs.make(settings.log_format, sys.stderr).bind(frontend=number)


if __name__ == "__main__":
    main()
