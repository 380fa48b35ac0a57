"""Errors of ours on their way from the engine to a front end, which puts them into statuses."""

from modelzoo.v1 import frontend_pb2
from server import errors
from server.errors import UNEXPECTED, InvalidRequestError, ModelZooError, OverloadedError


def encode(error: BaseException) -> frontend_pb2.SentError:
    """Encode an error; of one that is not ours, only that there was one."""
    if not isinstance(error, ModelZooError):
        return frontend_pb2.SentError(kind=ModelZooError.__name__, reason=UNEXPECTED)
    written = frontend_pb2.SentError(kind=type(error).__name__, reason=str(error))
    if isinstance(error, InvalidRequestError):
        written.kind = InvalidRequestError.__name__  # `decoding` has one of its own
        written.field, written.reason = error.field, error.reason
    if isinstance(error, OverloadedError):
        written.retry_delay_s = error.retry_delay_s
    return written


def decode(written: frontend_pb2.SentError) -> ModelZooError:
    """Return the error again."""
    kind: type[ModelZooError] = getattr(errors, written.kind)
    if kind is InvalidRequestError:
        return InvalidRequestError(written.field, written.reason)
    if issubclass(kind, OverloadedError):
        return kind(written.reason, written.retry_delay_s)
    return kind(written.reason)
