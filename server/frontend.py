"""A front end: a process that speaks gRPC, decodes, ranks, and has the engine do the rest.

The engine starts it (`frontends/spawn`) and sends it everything; it reads no settings and no environment
of its own. It ends when the engine says so, or has ended.
"""

import asyncio
import gc
import os
import socket
import sys
from typing import Any

import uvloop

from modelzoo.v1 import frontend_pb2
from server import machine, shutdown
from server.config import Settings
from server.frontends.arena import Arena
from server.frontends.channel import Channel
from server.frontends.engine_client import EngineClient
from server.frontends.replica import Replica
from server.frontends.reports import Reporter
from server.grpc_server import GrpcServer
from server.liveness.heartbeat import Heartbeat
from server.liveness.monitor import Monitor
from server.observability import capture, logs
from server.observability.metrics import Metrics
from server.observability.registry import empty_registry
from server.shutdown import GracePeriod

_LAST_WORDS_S = 0.5  # that the calls have to be refused once the engine has ended
_HOPELESS = 1  # exit code of a process that could not end in order


class Frontend:
    """The process; `run` it once.

    Args:
        memory: descriptor of the memory that it shares with the engine.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._channel = Channel(
            frontend_pb2.FrontendFrame, frontend_pb2.EngineFrame, self._received, self._broken
        )
        self._welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop_requested = asyncio.Event()
        self._failed = asyncio.Event()
        self._grace = GracePeriod()
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
            await self._front.open()
        except RuntimeError as error:  # gRPC's
            self._channel.pending.failure = str(error).partition("\n")[0]
            self._channel.close()
            return 1
        self._channel.pending.listening = True
        stopping = asyncio.ensure_future(self._stop())
        failed = asyncio.ensure_future(self._failed.wait())
        ends: list[asyncio.Future[Any]] = [stopping, engine_ended, failed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            stopping.result()
            self._channel.close()
            await engine_ended
            return 0
        if engine_ended.done():
            self._log.error("engine_ended", consequence="this front end ends, too")
        self._engine.end()
        self._models.drain()
        await self._front.close(_LAST_WORDS_S)
        return 1

    def flush_log(self) -> None:
        """Have written what was logged, before the process ends."""
        if self._welcomed.done():
            logs.flush(self._log)

    async def _stop(self) -> None:
        """Wait until it is time, then answer what was accepted, and say what was counted."""
        await self._stop_requested.wait()
        await self._monitor.expect_end()
        await self._front.stop(self._grace)
        await self._report()

    def _broken(self, error: Exception) -> None:
        if self._welcomed.done():
            self._monitor.supervisor.failed("connection", error, remedy="this front end ends")

    def _received(self, frame: frontend_pb2.EngineFrame) -> None:
        if frame.HasField("welcome"):
            self._build(frame.welcome)
        self._heartbeat.received()
        if frame.HasField("fault"):
            self._set_fault("engine", frame.fault)
        for sent in frame.models:
            self._models.receive(sent)
            self._front.health.set_model(sent.status.name, sent.status.state)
        for name in frame.removed:
            self._models.forget(name)
            self._front.health.forget_model(name)
        if frame.HasField("serving"):
            self._front.health.set_server(serving=frame.serving)
        if frame.HasField("state"):
            self._channel.pending.seen = frame.state
        self._engine.receive(frame)
        if frame.report_wanted:
            task = asyncio.get_running_loop().create_task(self._report())
            self._reporting.add(task)
            task.add_done_callback(self._reported)
        if frame.HasField("stop_by_s"):
            self._grace.ends_s = frame.stop_by_s
            self._stop_requested.set()
        if frame.hurry:
            self._grace.forced.set()

    def _build(self, welcome: frontend_pb2.Welcome) -> None:
        """Build everything."""
        loop = asyncio.get_running_loop()
        settings = Settings.model_validate_json(welcome.settings)
        stderr = capture.StandardError()
        log = logs.make(settings.log_format, stderr.stream)
        self._log = log.bind(frontend=welcome.number)
        capture.divert_python(self._log)
        if settings.transport == "h2corn":
            machine.keep_freed_memory()
        if settings.diverts_stderr:
            stderr.divert(self._log, python=settings.log_format == "json")
        loop.set_exception_handler(capture.loop_errors(self._log))
        registry = empty_registry()
        metrics = Metrics(registry)
        self._reporter = Reporter(registry)
        self._engine = EngineClient(
            self._channel, Arena(self._memory, welcome.memory_bytes), welcome.memory_bytes
        )
        os.close(self._memory)
        self._models = Replica(self._engine, self._channel, metrics, settings.max_queue_size)
        self._monitor = Monitor(
            settings,
            registry,
            self._log,
            on_fault=self._publish_fault,
            on_failure=lambda _: self._failed.set(),
            on_hopeless=self._give_up,
            # Half the time: the log has the stack of a blocked loop before the engine ends this process.
            loop_timeout_s=settings.heartbeat_timeout_s / 2,
        )
        self._front = GrpcServer(
            settings,
            welcome.port,
            metrics,
            self._models,
            self._engine,
            self._engine.statistics,
            self._log,
            self._monitor.supervisor,
        )
        self._heartbeat = Heartbeat(
            self._channel.beat, settings.heartbeat_timeout_s, self._engine_silent, self._engine_sounds
        )
        self._heartbeat.start()
        self._welcomed.set_result(None)

    def _give_up(self, reason: str) -> None:
        self._log.critical("ending_now", reason=reason)
        self.flush_log()
        os._exit(_HOPELESS)

    def _engine_silent(self, silent_s: float) -> None:
        reason = f"the engine has given no sign of life for {silent_s:.0f} s"
        consequence = "calls are refused until it does"
        self._log.error("engine_hangs", silent_s=round(silent_s, 1), consequence=consequence)
        self._monitor.supervisor.hangs("connection", reason)
        self._engine.suspend(f"{reason}; {consequence}")

    def _engine_sounds(self) -> None:
        self._log.warning("engine_resumed")
        self._monitor.faults.clear("connection")
        self._engine.resume()

    def _publish_fault(self, reason: str) -> None:
        self._front.health.set_fault(reason)

    def _set_fault(self, part: str, reason: str) -> None:
        if reason:
            self._monitor.faults.report(part, reason)
        else:
            self._monitor.faults.clear(part)

    def _reported(self, task: asyncio.Task[None]) -> None:
        """Look at the end of a report; the engine counts one that is missed."""
        self._reporting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._monitor.supervisor.failed("report", error, remedy="the next one says all")

    async def _report(self) -> None:
        async with self._one_report:  # on a thread, because it takes some milliseconds
            samples = await asyncio.to_thread(self._reporter.changes)
        report = self._channel.pending.report
        report.samples.extend(samples)
        report.requests.extend(self._models.statistics())


def main() -> None:
    """Run a front end on the descriptors that the command line names, and end the process."""
    shutdown.ignore_signals()
    gc.freeze()  # every module: a collection in the middle of a call would walk through them all
    end, memory = map(int, sys.argv[1:])

    async def run() -> None:
        frontend = Frontend(memory)
        code = await frontend.run(socket.socket(fileno=end))
        frontend.flush_log()
        # As `modelzoo serve` does: a thread that still decodes would hold up the interpreter's own way out.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    uvloop.run(run())


if __name__ == "__main__":
    main()
