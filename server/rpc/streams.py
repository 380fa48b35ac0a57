"""One call of many messages: each is a request, answered as soon as it can be, in whatever order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from structlog.typing import FilteringBoundLogger

from server.errors import UNEXPECTED, ModelZooError, OverloadedError, let_go
from server.observability.metrics import RpcMetrics
from server.rpc.call import Call
from server.rpc.pacer import Pacer

Request = TypeVar("Request")

_WRITTEN_AT_ONCE = 16  # answers; a transport may send them as one
MAX_OUTSTANDING = 256  # requests of one stream that wait for their answers; more are not read


@dataclass(frozen=True)
class Answers(Generic[Request]):
    """How the messages of a stream are answered.

    Attributes:
        parse: gives the request in a message.
        handler: answers a request, given the stream's deadline on the clock of `time.monotonic`, with the
            message as it is sent.
        failed: makes an answer of an error; the request is None where it could not be read.
        ending_header: header of the call by which, with ``true``, a client asks for the first error to end
            the call instead.
    """

    parse: Callable[[bytes], Request]
    handler: Callable[[Request, float | None], Awaitable[bytes]]
    failed: Callable[[Request | None, ModelZooError], Message]
    ending_header: str | None = None


class Stream(Generic[Request]):
    """One such call; `run` it once.

    Args:
        deadline_s: of the whole call, on the clock of `time.monotonic`; None for no deadline.
        log: gets errors that are no request's fault.
        pacer: of the heavy requests of all calls.
    """

    def __init__(
        self,
        call: Call,
        answers: Answers[Request],
        deadline_s: float | None,
        metrics: RpcMetrics,
        log: FilteringBoundLogger,
        pacer: Pacer,
    ) -> None:
        self._call = call
        self._answers = answers
        self._deadline_s = deadline_s
        self._metrics = metrics
        self._log = log
        self._pacer = pacer
        self._room = asyncio.Event()
        self._unwritten: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._read_all = False
        self._ends = call.header(answers.ending_header) == "true"

    async def run(self) -> None:
        """Answer until the client has said all and every answer is written.

        Being cancelled gives up every request that is not answered.

        Raises:
            ModelZooError: the client wants the call to end with it.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                while (body := await self._call.read()) is not None:
                    self._metrics.received.inc()
                    group.create_task(self._answer(body))
                    del body
                    while self._call.requests >= MAX_OUTSTANDING:
                        self._room.clear()
                        await self._room.wait()
                self._read_all = True
                self._changed.set()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _answer(self, body: bytes) -> None:
        size_bytes = len(body)
        request = None
        try:
            self._call.require_room()
            await self._pacer.wait(size_bytes)
            request = self._answers.parse(body)
            answer = await self._answers.handler(request, self._deadline_s)
            self._call.enter(len(answer))
            try:
                self._call.require_room_for_answer(len(answer))
            except OverloadedError:
                self._call.leave(len(answer))
                raise
        except ModelZooError as error:
            if self._ends:
                raise
            answer = self._rejected(request, error)
        except Exception as error:  # noqa: BLE001 - the other requests of the stream go on
            self._log.exception("call_failed")
            let_go(error)
            answer = self._rejected(request, ModelZooError(UNEXPECTED))
        self._call.leave(size_bytes)
        self._unwritten.append(answer)
        self._changed.set()

    def _rejected(self, request: Request | None, error: ModelZooError) -> bytes:
        """Return the answer to a request that was rejected; it is counted as every other."""
        answer = self._answers.failed(request, let_go(error)).SerializeToString()
        self._call.enter(len(answer))
        return answer

    async def _write(self) -> None:
        """Write answers as they come, some at a time."""
        while True:
            self._changed.clear()
            while self._unwritten:
                count = min(_WRITTEN_AT_ONCE, len(self._unwritten))
                answers = [self._unwritten.popleft() for _ in range(count)]
                await self._call.write(*answers)
                self._metrics.sent.inc(count)
                self._call.leave(sum(map(len, answers)), count)
                self._room.set()
            if self._read_all and not self._call.requests:
                return
            await self._changed.wait()
