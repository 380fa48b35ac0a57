"""What happens around every call: its deadline, its status, its metrics.

Handlers raise our exceptions; this file alone makes gRPC's statuses of them, and no other exception's
message ever reaches a client.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc_status.rpc_status
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from structlog.typing import FilteringBoundLogger

from server import deadlines, wire
from server.errors import InvalidRequestError, ModelZooError, OverloadedError
from server.metrics import Metrics, RpcMetrics

_RETRY_DELAY_S = 0.5  # some large requests' time

Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[Request, float | None], Awaitable[Message]]


class Edge:
    """Wraps handlers into RPC methods.

    Args:
        log: told of errors that are nobody's request's fault.
        max_bytes: size of all requests that are in flight together.

    Attributes:
        idle: set while no call is in flight.
    """

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger, max_bytes: int) -> None:
        self._metrics = metrics
        self._log = log
        self._max_bytes = max_bytes
        self._bytes = 0
        self._calls = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def unary(
        self,
        service: str,
        method: str,
        request_type: type[Request],
        handler: Handler[Request],
        max_fields: int = 16,
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Make an RPC method of a handler.

        Bytes in, bytes out: the handler gets the parsed request and its deadline on the clock of
        `time.monotonic` (None where the client set none), and returns the response.

        Args:
            max_fields: fields that a request may have at its top level; they are counted before it is
                parsed, because two bytes a field grow a hundredfold there.
        """
        metrics = self._metrics.for_method(service, method)
        log = self._log.bind(method=f"/{service}/{method}")

        async def call(body: bytes, context: Context) -> bytes:
            started_s = time.monotonic()
            metrics.started.inc()
            left_s: float | None = context.time_remaining()  # None where the client set none
            deadline_s = None if left_s is None else started_s + left_s
            self._enter(len(body))
            try:
                if self._bytes > self._max_bytes:
                    raise OverloadedError("the requests in flight are too large together", _RETRY_DELAY_S)
                response = await handler(_parse(request_type, body, max_fields), deadline_s)
                answer = response.SerializeToString()
            except asyncio.CancelledError:  # the client hung up, or its deadline passed
                _ended(metrics, why_cancelled(deadline_s), started_s)
                raise
            except ModelZooError as error:
                _ended(metrics, error.status, started_s)
                await context.abort_with_status(_status(error))
                raise  # never reached: abort raises
            except Exception:
                log.exception("call_failed")
                _ended(metrics, grpc.StatusCode.INTERNAL, started_s)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")
                raise  # never reached: abort raises
            finally:
                self._leave(len(body))
            _ended(metrics, grpc.StatusCode.OK, started_s)
            return answer

        return grpc.unary_unary_rpc_method_handler(call)

    def _enter(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._calls += 1
        self.idle.clear()

    def _leave(self, size_bytes: int) -> None:
        self._bytes -= size_bytes
        self._calls -= 1
        if not self._calls:
            self.idle.set()


def why_cancelled(deadline_s: float | None) -> grpc.StatusCode:
    """Tell a passed deadline from a client that hung up; both cancel the call."""
    return grpc.StatusCode.DEADLINE_EXCEEDED if deadlines.over(deadline_s) else grpc.StatusCode.CANCELLED


def _parse(request_type: type[Request], body: bytes, max_fields: int) -> Request:
    try:
        if wire.count_fields(body, max_fields) > max_fields:
            raise InvalidRequestError("request", f"more than {max_fields} fields, images included")
        return request_type.FromString(body)
    except (DecodeError, ValueError) as error:
        raise InvalidRequestError("request", f"not a {request_type.DESCRIPTOR.full_name}") from error


def _ended(metrics: RpcMetrics, code: grpc.StatusCode, started_s: float) -> None:
    metrics.handled[code].inc()
    metrics.handling.observe(time.monotonic() - started_s)


def _status(error: ModelZooError) -> grpc.Status:
    """Describe an error as `google.rpc.Status`, with the details that its class carries."""
    details: list[Message] = []
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, OverloadedError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    number, _ = error.status.value
    return grpc_status.rpc_status.to_status(
        status_pb2.Status(code=number, message=str(error), details=packed)
    )
