"""One front end, as the engine sees it: what it sends is queued, answered, and given up when it has ended.

A model that serves is held once for each front end that knows of it, until that says that none of its
requests holds it any more, or ends.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from modelzoo.v1 import frontend_pb2
from server.errors import ModelNotReadyError, ModelZooError, StartError
from server.frontends import error_codec
from server.frontends.arena import Arena
from server.frontends.channel import Channel
from server.frontends.reports import Counters
from server.inference import Answer, PendingAnswer, Priority
from server.liveness.heartbeat import Heartbeat
from server.liveness.supervision import Supervisor
from server.models.model import Model


class Calls(Protocol):
    """Answers what front ends ask for beside images."""

    async def answer(self, call: frontend_pb2.EngineCall) -> frontend_pb2.CallEnd:
        """Do it; what goes wrong is in the answer."""


class Connection:
    """The engine's end of the connection to a front end.

    Args:
        number: of the front end, from 1.
        models: by their serials; grows.
        memory: descriptor of the shared memory, of ``size_bytes``.

    Attributes:
        listening: settled when the front end listens, or has sent the reason why it cannot.
        counters: what it has counted.
        seen: the newest state of the models that it knows.
        changed: set whenever `seen` is another.
    """

    def __init__(
        self,
        number: int,
        models: dict[int, Model],
        calls: Calls,
        memory: int,
        size_bytes: int,
        log: FilteringBoundLogger,
        supervisor: Supervisor,
    ) -> None:
        self.number = number
        self._models = models
        self._calls = calls
        self._arena = Arena(memory, size_bytes)
        self._log = log
        self._supervisor = supervisor
        self._channel = Channel(
            frontend_pb2.EngineFrame, frontend_pb2.FrontendFrame, self._received, self._broken
        )
        self._heartbeat: Heartbeat | None = None
        self._submissions: dict[int, PendingAnswer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leases: set[int] = set()  # serials of models that are held for it
        self._report: asyncio.Future[None] | None = None
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.counters = Counters()
        self.seen: float = 0
        self.changed = asyncio.Event()

    async def connect(self, end: socket.socket) -> None:
        """Take this end of the connection."""
        await self._channel.connect(end)

    def watch(self, timeout_s: float, on_silence: Callable[[float], None]) -> None:
        """Exchange signs of life with it from now on.

        Args:
            timeout_s: of silence.
            on_silence: called once it has given no sign for so long, with the seconds.
        """
        self._heartbeat = Heartbeat(self._channel.beat, timeout_s, on_silence)
        self._heartbeat.start()

    def close(self) -> None:
        """Hang up; then it has `ended`."""
        self._channel.abort()

    @property
    def pending(self) -> frontend_pb2.EngineFrame:
        """Return the next frame; what is added at once goes with it."""
        return self._channel.pending

    def send_model(self, serial: int) -> None:
        """Send a model as it stands."""
        if self._channel.ended.is_set():
            return
        model = self._models[serial]
        sent = self.pending.models.add(serial=serial, status=model.status, labels=model.labels)
        if model.manifest is not None:
            sent.manifest.CopyFrom(model.manifest)
        if model.is_ready and serial not in self._leases:
            self._leases.add(serial)
            model.holders.acquire()

    async def report(self, timeout_s: float) -> bool:
        """Have it report what it has counted; False where it does not within the time."""
        if self._channel.ended.is_set():
            return True  # its last word is known
        if self._report is None:
            self._report = asyncio.get_running_loop().create_future()
            self.pending.report_wanted = True
        done, _ = await asyncio.wait([self._report], timeout=timeout_s)
        return bool(done)

    async def ended(self) -> int:
        """Wait until it is gone, and cancel what it had sent; return how many submissions that were."""
        await self._channel.ended.wait()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        unanswered = len(self._submissions)
        for submission in list(self._submissions.values()):
            submission.cancel()
        self._submissions.clear()
        self._arena.close()
        for serial in self._leases:
            self._models[serial].holders.release()
        self._leases.clear()
        for future in (self.listening, self._report):
            if future is not None and not future.done():
                future.set_result(None)
        self.seen = math.inf  # nothing waits for it any more
        self.changed.set()
        return unanswered

    def _broken(self, error: Exception) -> None:
        remedy = "the front end is replaced"
        self._supervisor.failed("connection", error, remedy=remedy)

    def _received(self, frame: frontend_pb2.FrontendFrame) -> None:
        if self._heartbeat is not None:
            self._heartbeat.received()
        for sent in frame.submissions:
            self._queue(sent)
        for number in frame.cancelled:
            if (submission := self._submissions.get(number)) is not None:
                submission.cancel()
        for serial in frame.released:
            self._leases.remove(serial)
            self._models[serial].holders.release()
        for call in frame.calls:
            task = asyncio.get_running_loop().create_task(self._answer(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if frame.HasField("report"):
            self.counters.receive(frame.report)
            if self._report is not None:
                self._report.set_result(None)
                self._report = None
        self._take_note(frame)

    def _take_note(self, frame: frontend_pb2.FrontendFrame) -> None:
        """Hear what the front end says of itself."""
        if frame.HasField("seen"):
            self.seen = frame.seen
            self.changed.set()
        if frame.failure:
            self.listening.set_exception(StartError(frame.failure))
        if frame.listening:
            self.listening.set_result(None)

    def _queue(self, sent: frontend_pb2.SentSubmission) -> None:
        """Put what was sent into the model's queue; the pixels stay where they are."""
        try:
            submission = self._submit(sent)
        except Exception as error:  # noqa: BLE001 - it is the request's, the others go on
            if not isinstance(error, ModelZooError):
                self._log.exception("call_failed", frontend=self.number)
            self.pending.ends.add(id=sent.id, error=error_codec.encode(error))
            return
        self._submissions[sent.id] = submission
        submission.add_done_callback(partial(self._settle, sent))

    def _submit(self, sent: frontend_pb2.SentSubmission) -> PendingAnswer:
        model = self._models[sent.model]
        if model.submit is None or model.manifest is None:
            raise ModelNotReadyError(f"{model.entry.name} does not serve any more")
        shape = model.manifest.input
        images = self._arena.pixels(
            sent.pixels_at, (sent.images, shape.height, shape.width, shape.channels)
        )  # [N, H, W, C]
        deadline_s = sent.deadline_s if sent.HasField("deadline_s") else None
        return model.submit(images, deadline_s, priority=Priority(sent.priority), peer=sent.peer)

    def _settle(self, sent: frontend_pb2.SentSubmission, future: asyncio.Future[Answer]) -> None:
        """Answer, and say whether the memory is free: a batch that runs may still read it."""
        submission = self._submissions.pop(sent.id, None)
        if submission is None:  # the front end has ended
            # The error is retrieved, so that asyncio does not report it.
            _ = future.cancelled() or future.exception()
            return
        end = self.pending.ends.add(id=sent.id, held=submission.is_in_batch)
        if end.held:
            submission.on_batch_ended = partial(self._free, sent.id, submission)
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            end.error.CopyFrom(error_codec.encode(error))
            return
        answer = future.result()
        try:
            self._arena.probabilities(sent.answer_at, answer.probabilities.shape)[:] = answer.probabilities
        except Exception as unexpected:  # noqa: BLE001 - its caller must not wait for ever
            self._log.exception("call_failed", frontend=self.number)
            end.error.CopyFrom(error_codec.encode(unexpected))
            return
        end.queue_s, end.infer_s, end.batch_size = answer[1:]

    def _free(self, number: int, submission: PendingAnswer) -> None:
        if not submission.is_in_batch:
            submission.on_batch_ended = None
            self.pending.freed.append(number)

    async def _answer(self, call: frontend_pb2.EngineCall) -> None:
        end = await self._calls.answer(call)
        self.pending.call_ends.append(end)  # to the frame that is next now, not before the wait
