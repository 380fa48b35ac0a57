"""What happens around every call: its admission, its deadline, its status, its metrics.

Handlers raise our exceptions, which the transport sends as gRPC's statuses; no other exception's message ever
reaches a client.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from structlog.typing import FilteringBoundLogger

from server import deadlines
from server.errors import (
    UNEXPECTED,
    InvalidRequestError,
    ModelZooError,
    UnsupportedError,
    let_go,
)
from server.observability.metrics import Metrics, RpcKind, RpcMetrics
from server.rpc import wire
from server.rpc.call import Call, answer_to
from server.rpc.calls import Calls
from server.rpc.context import Context, Method, Methods, PeerGoneError
from server.rpc.limits import Pool
from server.rpc.pacer import Pacer
from server.rpc.streams import Answers, Stream

Request = TypeVar("Request")
Parsed = TypeVar("Parsed", bound=Message)
Handler = Callable[[Request, float | None], Awaitable[bytes]]
# Answers a call as it likes, given the call and its deadline; gives the only answer, where there is one.
Serve = Callable[[Call, float | None], Awaitable[None]]
Serving = Callable[[Call, float | None], Awaitable[bytes]]

_SMALL_BYTES = 1 << 20  # of a request that holds no picture and no tensor
UNKNOWN = "_unknown"  # one series for all methods that clients make up


class Handlers:
    """Wraps handlers into RPC methods: bytes in, bytes out.

    Args:
        log: gets errors that are no request's fault.
        calls: admits every call.

    Attributes:
        pacer: of the heavy requests of all calls.
    """

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger, calls: Calls) -> None:
        self._metrics = metrics
        self._log = log
        self.calls = calls
        self.pacer = Pacer()

    def unary(
        self,
        service: str,
        method: str,
        parse: Callable[[bytes], Request],
        handler: Handler[Request],
        pool: Pool | None = None,
    ) -> Method:
        """Make an RPC method of a handler.

        Args:
            parse: reads the request in a message, or raises a `ModelZooError`.
            handler: gets the request and its deadline on the clock of `time.monotonic` (None where the
                client set none), and returns the response as it is sent.
            pool: that the calls belong to; ordinary where None is given.
        """
        metrics = self._metrics.for_method("unary", service, method)
        pool = pool or self.calls.ordinary

        async def serve(call: Call, deadline_s: float | None) -> bytes:
            body = await call.read_one()
            metrics.received.inc()
            call.require_room()
            size_bytes = len(body)
            await self.pacer.wait(size_bytes)
            request = parse(body)
            del body  # parsed, most requests are copies
            answer = await handler(request, deadline_s)
            del request
            call.enter(len(answer))
            call.leave(size_bytes)
            call.require_room_for_answer(len(answer))
            call.sending(len(answer))
            metrics.sent.inc()
            return answer

        return Method(self._outcome(metrics, f"/{service}/{method}", serve, pool), answers_once=True)

    def simple(
        self,
        service: str,
        handlers: Mapping[type[Message], Callable[..., Awaitable[Message]]],
        pool: Pool | None = None,
    ) -> Methods:
        """Make RPC methods of handlers of small requests.

        Args:
            handlers: answer a request, whatever its deadline; by its type, after which the method is named.
            pool: see `unary`.
        """

        def method(kind: type[Message]) -> Method:
            async def respond(request: Message, _: float | None) -> bytes:
                return (await handlers[kind](request)).SerializeToString()

            parse = parser(kind, max_bytes=_SMALL_BYTES)
            return self.unary(service, _method_name(kind), parse, respond, pool)

        return {_method_name(kind): method(kind) for kind in handlers}

    def stream(self, service: str, method: str, answers: Answers[Request]) -> Method:
        """Make an RPC method of many messages, each of which is answered by itself."""
        metrics = self._metrics.for_method("bidi_stream", service, method)
        log = self._log.bind(method=f"/{service}/{method}")

        async def serve(call: Call, deadline_s: float | None) -> None:
            await Stream(call, answers, deadline_s, metrics, log, self.pacer).run()

        return self._of_many(metrics, service, method, serve, self.calls.ordinary)

    def other(
        self, kind: RpcKind, service: str, method: str, serve: Serve, pool: Pool | None = None
    ) -> Method:
        """Make an RPC method that reads and writes its messages itself."""
        metrics = self._metrics.for_method(kind, service, method)
        return self._of_many(metrics, service, method, serve, pool or self.calls.ordinary)

    def unknown(self) -> Method:
        """Make the method that answers calls of all methods that there are not."""

        async def reject(*_: object) -> None:
            raise UnsupportedError("Method not found!")  # as gRPC says it

        return self.other("unary", UNKNOWN, UNKNOWN, reject)

    def _of_many(self, metrics: RpcMetrics, service: str, method: str, serve: Serve, pool: Pool) -> Method:
        async def serve_until_answered(call: Call, deadline_s: float | None) -> bytes:
            await serve(call, deadline_s)
            return b""

        outcome = self._outcome(metrics, f"/{service}/{method}", serve_until_answered, pool)
        return Method(outcome, answers_once=False)

    def _outcome(
        self,
        metrics: RpcMetrics,
        path: str,
        serve: Serving,
        pool: Pool,
    ) -> Callable[[Context], Awaitable[bytes | ModelZooError]]:
        """Make the function that serves a call, counts it, and returns the answer or why it is rejected."""
        log = self._log.bind(method=path)
        calls = self.calls

        async def outcome(context: Context) -> bytes | ModelZooError:
            started_s = time.monotonic()
            metrics.started.inc()
            deadline_s = _deadline_s(context, started_s)
            code = grpc.StatusCode.CANCELLED
            call: Call | None = None
            rejected: ModelZooError | None = None
            try:
                call = calls.admit(context, pool)
                answer_to(call.connection.peer)
                answer = await serve(call, deadline_s)
            except asyncio.CancelledError:  # evicted, or the client hung up, or its deadline passed
                if call is None or call.evicted is None:
                    code = why_cancelled(deadline_s)
                    raise
                rejected = call.evicted
            except PeerGoneError:  # as a cancellation will say, too
                code = why_cancelled(deadline_s)
                raise asyncio.CancelledError from None
            except ModelZooError as error:
                rejected = let_go(error)
            except Exception as error:
                log.exception("call_failed")
                let_go(error)
                rejected = ModelZooError(UNEXPECTED)
            else:
                code = grpc.StatusCode.OK
                return answer
            finally:
                if rejected is not None:
                    code = rejected.status
                    if call is not None:
                        call.rejecting()
                metrics.handled[code].inc()
                metrics.handling.observe(time.monotonic() - started_s)
            return rejected

        return outcome


def parser(
    request_type: type[Parsed],
    max_fields: int = 16,
    inside: wire.Inside = wire.NOTHING,
    max_bytes: int | None = None,
) -> Callable[[bytes], Parsed]:
    """Make the function that reads requests of a type.

    Args:
        max_fields: fields that a request may have at its top level; they are counted before it is
            parsed, because two bytes a field grow a hundredfold there.
        inside: fields that hold a message (its own fields are counted too) or a text, which is bounded.
        max_bytes: that a request may have; None where its fields bound it.

    Returns:
        A function that raises `InvalidRequestError` for what is no such request.
    """

    def parse(body: bytes) -> Parsed:
        if max_bytes is not None and len(body) > max_bytes:
            raise InvalidRequestError("request", f"{len(body):,} bytes, not up to {max_bytes:,}")
        try:
            if len(body) > 2 * max_fields and wire.count_fields(body, max_fields, inside) > max_fields:
                raise InvalidRequestError("request", f"more than {max_fields} fields, images included")
            return request_type.FromString(body)
        except (DecodeError, ValueError) as error:
            raise InvalidRequestError("request", f"not a {request_type.DESCRIPTOR.full_name}") from error

    return parse


def why_cancelled(deadline_s: float | None) -> grpc.StatusCode:
    """Return the status of a cancelled call: its deadline passed, or its client hung up."""
    return grpc.StatusCode.DEADLINE_EXCEEDED if deadlines.over(deadline_s) else grpc.StatusCode.CANCELLED


def _deadline_s(context: Context, started_s: float) -> float | None:
    left_s: float | None = context.time_remaining()  # None where the client set none
    return None if left_s is None else started_s + left_s


def _method_name(request: type[Message]) -> str:
    return request.DESCRIPTOR.name.removesuffix("Request")
