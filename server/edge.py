"""What happens around every call: its deadline, its status, its metrics.

Handlers raise our exceptions; here they become gRPC's statuses, and no other exception's
message ever reaches a client.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from structlog.typing import FilteringBoundLogger

from server import deadlines, statuses, wire
from server.errors import UNEXPECTED, InvalidRequestError, ModelZooError
from server.in_flight import InFlight
from server.metrics import Metrics, RpcMetrics
from server.streams import Answers, Stream

Request = TypeVar("Request")
Parsed = TypeVar("Parsed", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[Request, float | None], Awaitable[Message]]


class Edge:
    """Wraps handlers into RPC methods: bytes in, bytes out.

    Args:
        log: told of errors that are nobody's request's fault.
        in_flight: counts the requests that are being answered.
    """

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger, in_flight: InFlight) -> None:
        self._metrics = metrics
        self._log = log
        self._in_flight = in_flight

    def unary(
        self, service: str, method: str, parse: Callable[[bytes], Request], handler: Handler[Request]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Make an RPC method of a handler.

        Args:
            parse: gives the request in a message, or raises a `ModelZooError`.
            handler: gets the request and its deadline on the clock of `time.monotonic` (None where the
                client set none), and returns the response.
        """
        metrics = self._metrics.for_method("unary", service, method)
        log = self._log.bind(method=f"/{service}/{method}")

        async def call(body: bytes, context: Context) -> bytes:
            started_s = time.monotonic()
            metrics.started.inc()
            metrics.received.inc()
            deadline_s = _deadline_s(context, started_s)
            self._in_flight.enter(len(body))
            try:
                self._in_flight.require_room()
                response = await handler(parse(body), deadline_s)
                answer = response.SerializeToString()
            except asyncio.CancelledError:  # the client hung up, or its deadline passed
                _ended(metrics, why_cancelled(deadline_s), started_s)
                raise
            except ModelZooError as error:
                await _refuse(context, metrics, error, started_s)
            except Exception:
                log.exception("call_failed")
                _ended(metrics, grpc.StatusCode.INTERNAL, started_s)
                await context.abort(grpc.StatusCode.INTERNAL, UNEXPECTED)
                raise  # never reached: abort raises
            finally:
                self._in_flight.leave(len(body))
            _ended(metrics, grpc.StatusCode.OK, started_s)
            metrics.sent.inc()
            return answer

        return grpc.unary_unary_rpc_method_handler(call)

    def simple(
        self, service: str, handlers: Mapping[type[Message], Callable[..., Awaitable[Message]]]
    ) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
        """Make RPC methods of handlers whose requests are small.

        Args:
            handlers: as `unary` takes them, by the type of the request, after which the method is named.
        """
        named = {kind.DESCRIPTOR.name.removesuffix("Request"): kind for kind in handlers}
        return {name: self.unary(service, name, parser(kind), handlers[kind]) for name, kind in named.items()}

    def stream(
        self, service: str, method: str, answers: Answers[Request]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Make an RPC method of many messages, each of which is answered by itself."""
        metrics = self._metrics.for_method("bidi_stream", service, method)
        log = self._log.bind(method=f"/{service}/{method}")

        async def call(_: object, context: Context) -> None:
            started_s = time.monotonic()
            metrics.started.inc()
            deadline_s = _deadline_s(context, started_s)
            try:
                await Stream(context, answers, deadline_s, self._in_flight, metrics, log).run()
            except asyncio.CancelledError:
                _ended(metrics, why_cancelled(deadline_s), started_s)
                raise
            except ModelZooError as error:
                await _refuse(context, metrics, error, started_s)
            _ended(metrics, grpc.StatusCode.OK, started_s)

        return grpc.stream_stream_rpc_method_handler(call)


def parser(
    request_type: type[Parsed], max_fields: int = 16, inside: wire.Inside = wire.NOTHING
) -> Callable[[bytes], Parsed]:
    """Make the function that reads requests of a type.

    Args:
        max_fields: fields that a request may have at its top level; they are counted before it is
            parsed, because two bytes a field grow a hundredfold there.
        inside: fields that hold a message, whose own fields are counted too.

    Returns:
        A function that raises `InvalidRequestError` for what is no such request.
    """

    def parse(body: bytes) -> Parsed:
        try:
            if len(body) > 2 * max_fields and wire.count_fields(body, max_fields, inside) > max_fields:
                raise InvalidRequestError("request", f"more than {max_fields} fields, images included")
            return request_type.FromString(body)
        except (DecodeError, ValueError) as error:
            raise InvalidRequestError("request", f"not a {request_type.DESCRIPTOR.full_name}") from error

    return parse


def why_cancelled(deadline_s: float | None) -> grpc.StatusCode:
    """Tell a passed deadline from a client that hung up; both cancel the call."""
    return grpc.StatusCode.DEADLINE_EXCEEDED if deadlines.over(deadline_s) else grpc.StatusCode.CANCELLED


def _deadline_s(context: Context, started_s: float) -> float | None:
    left_s: float | None = context.time_remaining()  # None where the client set none
    return None if left_s is None else started_s + left_s


async def _refuse(context: Context, metrics: RpcMetrics, error: ModelZooError, started_s: float) -> NoReturn:
    """End a call with the status of an error, and what its class has to say beside it."""
    _ended(metrics, error.status, started_s)
    await context.abort_with_status(rpc_status.to_status(statuses.describe(error)))
    raise error  # never reached: abort raises


def _ended(metrics: RpcMetrics, code: grpc.StatusCode, started_s: float) -> None:
    metrics.handled[code].inc()
    metrics.handling.observe(time.monotonic() - started_s)
