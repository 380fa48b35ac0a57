"""The engine, as a front end sees it: what takes images, loads models and knows their statistics.

Pixels are put into the shared memory here, and answers taken out of it.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelzoo.v1 import frontend_pb2, open_inference_pb2
from server.errors import ExpiredError, InvalidRequestError, ModelNotReadyError, OverloadedError
from server.frontends import error_codec
from server.frontends.arena import Arena, Space, aligned
from server.frontends.channel import Channel
from server.inference import Answer, PendingAnswer, Priority, Rows
from server.models.model import ReadyModel

_ENDED = "the server has ended"
_FLOAT_BYTES = 4
_RETRY_DELAY_S = 0.1  # some batches' time

EngineChannel = Channel[frontend_pb2.FrontendFrame, frontend_pb2.EngineFrame]


@dataclass(frozen=True)
class RemoteSubmission:
    """A submission that the engine has, and its place in the shared memory.

    Attributes:
        offset: where its place begins; the pixels come first.
        answer_at: where the answer will be.
        shape: of the answer, ``[N, K]``.
        deadline_s: on the clock of `time.monotonic`; None for no deadline.
    """

    future: "RemoteAnswer"
    offset: int
    answer_at: int
    shape: tuple[int, int]
    deadline_s: float | None


class RemoteAnswer(PendingAnswer):
    """The future of an answer; the engine is sent its cancellation."""

    def __init__(self, number: int, channel: EngineChannel) -> None:
        super().__init__(asyncio.get_running_loop())
        self._number = number
        self._channel = channel

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel as every future does; images that still wait leave the queue."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._channel.pending.cancelled.append(self._number)
        return cancelled


class EngineClient:
    """Stands for batcher, lifecycle and statistics; lives on the event loop.

    Args:
        size_bytes: of the shared memory.
    """

    def __init__(self, channel: EngineChannel, arena: Arena, size_bytes: int) -> None:
        self._channel = channel
        self._arena = arena
        self._space = Space(size_bytes)
        self._submissions: dict[int, RemoteSubmission] = {}
        self._calls: dict[int, asyncio.Future[frontend_pb2.CallEnd]] = {}
        self._numbers = 0
        self._gone = False
        self._silent = ""

    def submit(
        self,
        model: tuple[int, int],
        images: Rows,
        deadline_s: float | None = None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        peer: str = "",
    ) -> RemoteAnswer:
        """Queue images, as `Batcher.submit` does.

        Args:
            model: its serial, and how many labels it has.

        Raises:
            OverloadedError: the shared memory has no room for them now.
            InvalidRequestError: it never will.
            ModelNotReadyError: the engine has ended, or gives no sign of life.
        """
        self._require_engine()
        serial, label_count = model
        shape = (len(images), *images[0].shape)  # [N, H, W, C]
        pixels_bytes = aligned(math.prod(shape))
        offset = self._take(pixels_bytes + len(images) * label_count * _FLOAT_BYTES)
        for place, image in zip(self._arena.pixels(offset, shape), images, strict=True):
            place[:] = image
        number = self._next()
        future = RemoteAnswer(number, self._channel)
        answer_at = offset + pixels_bytes
        self._submissions[number] = RemoteSubmission(
            future, offset, answer_at, (len(images), label_count), deadline_s
        )
        sent = self._channel.pending.submissions.add(
            id=number,
            model=serial,
            images=len(images),
            pixels_at=offset,
            answer_at=answer_at,
            priority=priority,
            peer=peer,
        )
        if deadline_s is not None:
            sent.deadline_s = deadline_s
        return future

    async def load(self, name: str) -> None:
        """Load the newest version of a model; see `Lifecycle.load`."""
        await self._call(load=name)

    async def unload(self, name: str) -> None:
        """Let a model answer what it accepted, and free it; see `Lifecycle.unload`."""
        await self._call(unload=name)

    async def refresh(self) -> None:
        """Look for models that came or went on disk; see `Models.refresh`."""
        await self._call(refresh=True)

    async def statistics(self, models: Sequence[ReadyModel]) -> Sequence[open_inference_pb2.ModelStatistics]:
        """Return what models have done, in all front ends together.

        Raises:
            ModelZooError: one of them does not serve any more.
        """
        names = [model.status.name for model in models]
        end = await self._call(statistics=frontend_pb2.StatisticsCall(models=names))
        return end.statistics

    def receive(self, frame: frontend_pb2.EngineFrame) -> None:
        """Take what the engine says of submissions and calls."""
        for end in frame.ends:
            self._settle(end)
        for number in frame.freed:
            self._space.give_back(self._submissions.pop(number).offset)
        for call_end in frame.call_ends:
            future = self._calls.pop(call_end.id)
            if future.done():
                continue
            if call_end.HasField("error"):
                future.set_exception(error_codec.decode(call_end.error))
            else:
                future.set_result(call_end)

    def suspend(self, reason: str) -> None:
        """Fail what waits and refuse what comes: the engine gives no sign of life.

        Its memory stays taken until the engine, if it comes to itself, has given it back.
        """
        self._silent = reason
        for number, sent in self._submissions.items():
            if not sent.future.done():
                sent.future.set_exception(ModelNotReadyError(reason))
                self._channel.pending.cancelled.append(number)
        for future in self._calls.values():
            _fail(future, reason)

    def resume(self) -> None:
        """Submit again: the engine gives signs of life."""
        self._silent = ""

    def end(self) -> None:
        """Fail what waits: the engine has ended."""
        self._gone = True
        for sent in self._submissions.values():
            _fail(sent.future, _ENDED)
        for future in self._calls.values():
            _fail(future, _ENDED)

    def _settle(self, end: frontend_pb2.SubmissionEnd) -> None:
        sent = self._submissions[end.id]
        if sent.future.done():
            pass  # cancelled
        elif end.HasField("error"):
            sent.future.set_exception(error_codec.decode(end.error))
        elif sent.deadline_s is not None and sent.deadline_s <= time.monotonic():
            sent.future.set_exception(ExpiredError("the answer came after the deadline"))
        else:
            # A copy: the place is free for others from now on.
            probabilities = self._arena.probabilities(sent.answer_at, sent.shape).copy()
            sent.future.set_result(Answer(probabilities, end.queue_s, end.infer_s, end.batch_size))
        if not end.held:
            del self._submissions[end.id]
            self._space.give_back(sent.offset)

    def _take(self, size_bytes: int) -> int:
        """Take a place in the shared memory.

        Raises:
            OverloadedError: there is no room now.
            InvalidRequestError: there never will be.
        """
        if size_bytes > self._space.size_bytes:
            raise InvalidRequestError(
                "images",
                f"{size_bytes} bytes of pixels and answers, not at most {self._space.size_bytes}, "
                "as the setting frontend_memory_bytes has it",
            )
        offset = self._space.take(size_bytes)
        if offset is None:
            raise OverloadedError(
                f"the memory that this front end shares with the engine has no room for {size_bytes} bytes; "
                f"{self._space.free_bytes} of {self._space.size_bytes} are free",
                _RETRY_DELAY_S,
            )
        return offset

    async def _call(self, **call: Any) -> frontend_pb2.CallEnd:
        """Have the engine do something; it does it even if the caller has gone.

        Raises:
            ModelZooError: it could not, or has ended.
        """
        self._require_engine()
        number = self._next()
        future: asyncio.Future[frontend_pb2.CallEnd] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._channel.pending.calls.add(id=number, **call)
        return await future

    def _require_engine(self) -> None:
        if self._gone or self._silent:
            raise ModelNotReadyError(_ENDED if self._gone else self._silent)

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers


def _fail(future: asyncio.Future[Any], reason: str) -> None:
    if not future.done():
        future.set_exception(ModelNotReadyError(reason))
