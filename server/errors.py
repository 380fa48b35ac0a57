"""Everything that can go wrong, and the gRPC status each becomes.

ModelZooError                INTERNAL
├── InvalidRequestError      INVALID_ARGUMENT    which field, and why
├── ModelNotFoundError       NOT_FOUND           no such name or version
├── RegionNotFoundError      NOT_FOUND           no shared memory registered under that name
├── RegionExistsError        ALREADY_EXISTS      the name of a region is taken
├── ForbiddenError           PERMISSION_DENIED   a setting would have to allow it
├── UnsupportedError         UNIMPLEMENTED       no server of ours does it
│   └── MissingMessageError  UNIMPLEMENTED       a call without the message that its method takes
├── IdleCallError            UNAVAILABLE         the peer let the call wait for too long
├── ModelNotReadyError       UNAVAILABLE         loading, draining or failed
├── OverloadedError          RESOURCE_EXHAUSTED  queue or decoders full, or too full for the deadline; retry
│   └── BusyError            UNAVAILABLE         the same, for clients that retry this status only
├── MessageTooLargeError     RESOURCE_EXHAUSTED  larger than any may be
├── ExpiredError             DEADLINE_EXCEEDED   dropped before any computing, or answered too late
└── InferenceError           INTERNAL            the device failed the batch
StartError                   no status: the server does not start; the message says why
FrontendError                no status: a front end, or another vital part, ended, and the server with it
DeviceError                  no status: the device fails; it ends a batch or a load, and the log has it
"""

import traceback
from typing import ClassVar, TypeVar

import grpc

Raised = TypeVar("Raised", bound=BaseException)

UNEXPECTED = "internal error; the server's log has it"  # all that a client sees of any other exception


class ModelZooError(Exception):
    """What a client may see; `rpc` turns it into the status of the call."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class InvalidRequestError(ModelZooError):
    """The request itself is wrong.

    Args:
        field: path of the field, ``images[3]`` say.
        reason: what is wrong with it, in one line.
    """

    status = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class ModelNotFoundError(ModelZooError):
    """No model of that name or version."""

    status = grpc.StatusCode.NOT_FOUND


class RegionNotFoundError(ModelZooError):
    """No region of shared memory is registered under that name."""

    status = grpc.StatusCode.NOT_FOUND


class RegionExistsError(ModelZooError):
    """A region of shared memory is registered under that name."""

    status = grpc.StatusCode.ALREADY_EXISTS


class ForbiddenError(ModelZooError):
    """The server's settings do not allow it; the message says which would."""

    status = grpc.StatusCode.PERMISSION_DENIED


class UnsupportedError(ModelZooError):
    """The protocol has it and this server does not."""

    status = grpc.StatusCode.UNIMPLEMENTED


class MissingMessageError(UnsupportedError):
    """The call ended without the message that its method takes.

    gRPC's own status for it (statuscodes.md: request cardinality violation).
    """


class IdleCallError(ModelZooError):
    """The peer neither sent what the call waits for nor read what it was sent; it may call again."""

    status = grpc.StatusCode.UNAVAILABLE


class ModelNotReadyError(ModelZooError):
    """The model is loading, draining or failed, or the server is stopping."""

    status = grpc.StatusCode.UNAVAILABLE


class OverloadedError(ModelZooError):
    """There is no room for these images now.

    Args:
        reason: what is full, in one line.
        retry_delay_s: when to try again at the earliest.
    """

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, reason: str, retry_delay_s: float) -> None:
        super().__init__(reason)
        self.retry_delay_s = retry_delay_s


class BusyError(OverloadedError):
    """There is no room for these images now; the status is Triton's."""

    status = grpc.StatusCode.UNAVAILABLE


class MessageTooLargeError(ModelZooError):
    """A message is larger than the server takes; a retry would not help."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class ExpiredError(ModelZooError):
    """The deadline passed, or could not be kept any more."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class InferenceError(ModelZooError):
    """The device failed the batch, or an image of it; the log has the cause."""


class StartError(Exception):
    """The server cannot start: a setting, a port or a device is not usable; the message says which."""


class FrontendError(Exception):
    """A front end, or another vital part, ended, and the server with it; the message says which, and why."""


class DeviceError(Exception):
    """The device does not do what it was asked to."""


def let_go(error: Raised) -> Raised:
    """Have an error, and those that led to it, keep nothing alive.

    Their frames hold the request and its pictures, and would for long: such frames also hold what holds the
    error, a future or gRPC's call.
    """
    causes: list[BaseException | None] = [error]
    for cause in causes:  # grows on the way
        if cause is None:
            continue
        traceback.clear_frames(cause.__traceback__)
        causes += (cause.__cause__, cause.__context__)
        cause.__traceback__ = cause.__cause__ = cause.__context__ = None
    return error
