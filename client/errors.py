"""What a client raises, and how a refusal is taken apart."""

from contextlib import suppress

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


class ClientError(Exception):
    """The server refused, or could not be asked.

    Attributes:
        code: gRPC's status.
        field: path of the request's field that is wrong, ``images[3]`` say; empty where no field is.
        retry_delay_s: when the server wants to be asked again; None where it did not say.
        from_server: whether the server's own code refused; else gRPC did, having reached it or not.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        field: str = "",
        retry_delay_s: float | None = None,
        *,
        from_server: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.retry_delay_s = retry_delay_s
        self.from_server = from_server

    @property
    def unreachable(self) -> bool:
        """Return whether there was no server to ask, as far as gRPC knows."""
        return self.code is grpc.StatusCode.UNAVAILABLE and not self.from_server

    def describe(self, address: str) -> str:
        """Describe what went wrong at an address, and when to try again, where the server names a time."""
        if self.unreachable:
            return f"no server answers at {address}"
        return f"{self}" if self.retry_delay_s is None else f"{self}; try again in {self.retry_delay_s:g} s"


def malformed(what: str) -> ClientError:
    """Describe an answer that breaks the protocol."""
    return ClientError(grpc.StatusCode.INTERNAL, f"the server sent {what}")


def client_error(error: grpc.RpcError) -> ClientError:
    """Take a refusal apart: its status, and the details that the server added, as far as they can be read."""
    if not isinstance(error, grpc.Call):  # gRPC's own always are
        return ClientError(grpc.StatusCode.UNKNOWN, str(error) or type(error).__name__)
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # details that are not this call's, from a proxy say, or none at all
        status = None
    if status is None:
        return ClientError(error.code(), error.details() or error.code().name)
    return refusal(status)


def refusal(status: status_pb2.Status) -> ClientError:
    """Take a status that the server described apart."""
    field, retry_delay_s = "", None
    for detail in status.details:
        bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        with suppress(DecodeError):
            if detail.Unpack(bad_request) and bad_request.field_violations:
                field = bad_request.field_violations[0].field
            elif detail.Unpack(retry_info):
                retry_delay_s = retry_info.retry_delay.ToNanoseconds() / 1e9
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return ClientError(code, status.message or code.name, field, retry_delay_s, from_server=True)
