"""The parameters of an Open Inference Protocol request, its inputs and its outputs.

Those that this server does not know are passed over: clients send them to every server alike.
"""

from collections.abc import Mapping, MutableMapping

from modelzoo.v1 import open_inference_pb2
from server.errors import InvalidRequestError
from server.inference import Priority
from server.services.open_inference.shared_memory import Place

Parameters = Mapping[str, open_inference_pb2.InferParameter]

_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"


def timeout_s(parameters: Parameters) -> float | None:
    """Return how long the answer may take; None where nothing is said, by 0 for instance.

    Raises:
        InvalidRequestError: it is negative, or not a whole number.
    """
    timeout_us = _whole("", parameters, "timeout")
    if timeout_us is not None and timeout_us < 0:
        raise InvalidRequestError("parameters[timeout]", f"{timeout_us} microseconds")
    return timeout_us / 1e6 if timeout_us else None


def priority(parameters: Parameters) -> Priority:
    """Return the priority of a request: up to 1, the most urgent, it is interactive, as it is by default.

    Raises:
        InvalidRequestError: it is negative, or not a whole number.
    """
    given = parameters.get("priority")
    if given is None:
        return Priority.INTERACTIVE
    kind = given.WhichOneof("parameter_choice")
    level = getattr(given, kind) if kind in {"int64_param", "uint64_param"} else -1
    if level < 0:
        raise InvalidRequestError("parameters[priority]", "not an int64_param or uint64_param from 0 on")
    return Priority.BULK if level > 1 else Priority.INTERACTIVE


def label_count(field: str, parameters: Parameters) -> int | None:
    """Return how many of the best labels are asked for; None where the probabilities are.

    Raises:
        InvalidRequestError: it is less than one, or not a whole number.
    """
    count = _whole(f"{field}.", parameters, "classification")
    if count is not None and count < 1:
        raise InvalidRequestError(f"{field}.parameters[classification]", f"{count} labels")
    return count


def place(field: str, parameters: Parameters) -> Place | None:
    """Return where in shared memory a tensor is; None where it is in the message.

    Raises:
        InvalidRequestError: something about it is missing, or of another type.
    """
    region = parameters.get(_REGION)
    if region is None:
        return None
    if region.WhichOneof("parameter_choice") != "string_param":
        raise InvalidRequestError(f"{field}.parameters[{_REGION}]", "not a string_param")
    size = _whole(f"{field}.", parameters, _SIZE)
    if size is None:
        raise InvalidRequestError(f"{field}.parameters[{_SIZE}]", "missing")
    return Place(region.string_param, _whole(f"{field}.", parameters, _OFFSET) or 0, size, field)


def set_place(
    parameters: MutableMapping[str, open_inference_pb2.InferParameter], place: Place, size: int
) -> None:
    """Say where in shared memory a tensor of that many bytes was written."""
    parameters[_REGION].string_param = place.region
    parameters[_SIZE].int64_param = size
    parameters[_OFFSET].int64_param = place.offset


def _whole(within: str, parameters: Parameters, name: str) -> int | None:
    parameter = parameters.get(name)
    if parameter is None:
        return None
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidRequestError(f"{within}parameters[{name}]", "not an int64_param")
    return parameter.int64_param
