"""One call of many messages: each is a request, answered as soon as it can be, in whatever order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message
from structlog.typing import FilteringBoundLogger

from server.errors import UNEXPECTED, ModelZooError
from server.in_flight import InFlight
from server.metrics import RpcMetrics

Request = TypeVar("Request")
Context = grpc.aio.ServicerContext[bytes, bytes]

MAX_OUTSTANDING = 256  # requests of one stream that wait for their answers; more are not read


@dataclass(frozen=True)
class Answers(Generic[Request]):
    """How the messages of a stream are answered.

    Attributes:
        parse: gives the request in a message.
        handler: answers a request, given the stream's deadline on the clock of `time.monotonic`.
        failed: makes an answer of an error; the request is None where it could not be read.
        ending_header: header of the call by which, with ``true``, a client asks for the first error to end
            the call instead.
    """

    parse: Callable[[bytes], Request]
    handler: Callable[[Request, float | None], Awaitable[Message]]
    failed: Callable[[Request | None, ModelZooError], Message]
    ending_header: str | None = None


class Stream(Generic[Request]):
    """One such call; `run` it once.

    Args:
        deadline_s: of the whole call, on the clock of `time.monotonic`; None for no deadline.
        log: told of errors that are nobody's request's fault.
    """

    def __init__(
        self,
        context: Context,
        answers: Answers[Request],
        deadline_s: float | None,
        in_flight: InFlight,
        metrics: RpcMetrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._context = context
        self._answers = answers
        self._deadline_s = deadline_s
        self._in_flight = in_flight
        self._metrics = metrics
        self._log = log
        self._outstanding = 0  # requests that were read and whose answers are not written
        self._bytes = 0  # of these
        self._room = asyncio.Event()
        self._unwritten: deque[tuple[bytes, int]] = deque()  # answers, each with the size of its request
        self._changed = asyncio.Event()
        self._read_all = False
        headers = context.invocation_metadata() or ()
        self._ends = any(key == answers.ending_header and value == "true" for key, value in headers)

    async def run(self) -> None:
        """Answer until the client has said all and every answer is written.

        Being cancelled gives up every request that is not answered.

        Raises:
            ModelZooError: the client wants the call to end with it.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                while isinstance(body := await self._context.read(), bytes):  # else it is the end
                    self._enter(len(body))
                    group.create_task(self._answer(body))
                    while self._outstanding >= MAX_OUTSTANDING:
                        self._room.clear()
                        await self._room.wait()
                self._read_all = True
                self._changed.set()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._in_flight.leave(self._bytes, self._outstanding)

    async def _answer(self, body: bytes) -> None:
        request = None
        try:
            self._in_flight.require_room()
            request = self._answers.parse(body)
            answer = await self._answers.handler(request, self._deadline_s)
        except ModelZooError as error:
            if self._ends:
                raise
            answer = self._answers.failed(request, error)
        except Exception:  # noqa: BLE001 - the other requests of the stream go on
            self._log.exception("call_failed")
            answer = self._answers.failed(request, ModelZooError(UNEXPECTED))
        self._unwritten.append((answer.SerializeToString(), len(body)))
        self._changed.set()

    async def _write(self) -> None:
        """Write answers as they come; gRPC takes one at a time."""
        while True:
            self._changed.clear()
            while self._unwritten:
                answer, size_bytes = self._unwritten.popleft()
                await self._context.write(answer)
                self._metrics.sent.inc()
                self._leave(size_bytes)
            if self._read_all and not self._outstanding:
                return
            await self._changed.wait()

    def _enter(self, size_bytes: int) -> None:
        self._metrics.received.inc()
        self._in_flight.enter(size_bytes)
        self._outstanding += 1
        self._bytes += size_bytes

    def _leave(self, size_bytes: int) -> None:
        self._in_flight.leave(size_bytes)
        self._outstanding -= 1
        self._bytes -= size_bytes
        self._room.set()
