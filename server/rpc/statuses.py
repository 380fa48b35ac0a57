"""From an error of ours to gRPC's status, with the details that its class carries."""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from server.errors import InvalidRequestError, ModelZooError, OverloadedError


def describe(error: ModelZooError) -> status_pb2.Status:
    """Describe an error as `google.rpc.Status`."""
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
    return status_pb2.Status(code=number, message=str(error), details=packed)
