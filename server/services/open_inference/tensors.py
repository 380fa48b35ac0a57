"""The tensors of an Open Inference Protocol request: what is sent, what is asked for, and the answer.

One input, `images`: pixels as UINT8 ``[N, H, W, C]``, or JPEG, PNG and WebP files as BYTES ``[N]`` or ``[N,
1]``. One output, `probabilities`: FP32 ``[N, K]``, or the best labels as BYTES ``[N, k]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from artifact.layout import INPUT, OUTPUT
from modelzoo.v1 import manifest_pb2, open_inference_pb2
from server.errors import InvalidRequestError
from server.processing.ranking import require_labels
from server.services.open_inference import parameters
from server.services.open_inference.request import InferRequest
from server.services.open_inference.shared_memory import Place

Images = npt.NDArray[np.uint8]
InputTensor = open_inference_pb2.ModelInferRequest.InferInputTensor
Contents = open_inference_pb2.InferTensorContents

PIXELS, FILES, PROBABILITIES = "UINT8", "BYTES", "FP32"  # data types
_LENGTH_BYTES = 4  # in front of every element of raw BYTES
_FIELD = "inputs[0]"
_SHOWN = 100  # characters of what a client made up


@dataclass(frozen=True)
class RequestInput:
    """The input of a request, its content not looked at.

    Attributes:
        count: N.
        form: `PIXELS` or `FILES`.
        place: where in shared memory the content is.
    """

    tensor: InputTensor
    raw: Sequence[memoryview]
    count: int
    form: str
    place: Place | None


@dataclass(frozen=True)
class RequestOutput:
    """The output that a request asks for.

    Attributes:
        label_count: as many of the best labels, instead of the probabilities.
        place: where in shared memory to write it.
    """

    label_count: int | None = None
    place: Place | None = None


def request_input(request: InferRequest, shape: manifest_pb2.Input, max_images: int) -> RequestInput:
    """Check the input of a request against the model's, all but its content.

    Raises:
        InvalidRequestError: another name, number, type or shape; or content twice, or nowhere.
    """
    tensors = request.message.inputs
    if len(tensors) != 1:
        raise InvalidRequestError("inputs", f"{len(tensors)} tensors, not 1")
    tensor = tensors[0]
    if tensor.name != INPUT:
        raise InvalidRequestError(f"{_FIELD}.name", f"{tensor.name[:_SHOWN]!r}, not {INPUT!r}")
    given = tuple(tensor.shape[:8])
    wanted: tuple[int, ...] = ()
    if tensor.datatype == PIXELS:
        wanted = (shape.height, shape.width, shape.channels)
        fits = len(given) == 4 and given[1:] == wanted
    elif tensor.datatype == FILES:
        fits = len(given) == 1 or (len(given) == 2 and given[1] == 1)
    else:
        raise InvalidRequestError(
            f"{_FIELD}.datatype", f"{tensor.datatype[:_SHOWN]!r}, not {PIXELS} or {FILES}"
        )
    if not fits:
        named = ", ".join(map(str, ("N", *wanted)))
        raise InvalidRequestError(f"{_FIELD}.shape", f"{list(given)}, not [{named}]")
    if not 1 <= given[0] <= max_images:
        raise InvalidRequestError(f"{_FIELD}.shape", f"{given[0]} images, not 1 to {max_images}")
    place = parameters.place(_FIELD, tensor.parameters)
    homes = tensor.HasField("contents") + (place is not None)
    if request.raw and homes:
        raise InvalidRequestError("raw_input_contents", "the input has its content elsewhere, too")
    if homes + len(request.raw) != 1:
        raise InvalidRequestError(_FIELD, f"content in {homes + len(request.raw)} places, not 1")
    return RequestInput(tensor, request.raw, given[0], tensor.datatype, place)


def request_output(request: InferRequest, count: int, label_count: int) -> RequestOutput:
    """Check the output that a request asks for.

    Args:
        count: N.
        label_count: K.

    Raises:
        InvalidRequestError: another name or number; or what the classification extension does not allow.
    """
    outputs = request.message.outputs
    if not outputs:
        return RequestOutput()
    if len(outputs) != 1:
        raise InvalidRequestError("outputs", f"{len(outputs)} tensors, not 1")
    field, output = "outputs[0]", outputs[0]
    if output.name != OUTPUT:
        raise InvalidRequestError(f"{field}.name", f"{output.name[:_SHOWN]!r}, not {OUTPUT!r}")
    labels = parameters.label_count(field, output.parameters)
    place = parameters.place(field, output.parameters)
    if labels is not None and place is not None:
        raise InvalidRequestError(field, "a classification cannot be written to shared memory")
    if labels is not None:
        require_labels(f"{field}.parameters[classification]", count, min(labels, label_count))
    size = count * label_count * np.dtype(np.float32).itemsize
    if place is not None and place.byte_size < size:
        raise InvalidRequestError(field, f"{place.byte_size} bytes for an output of {size}")
    return RequestOutput(None if labels is None else min(labels, label_count), place)


def require_size(given: RequestInput, shape: manifest_pb2.Input, max_bytes: int) -> None:
    """Check how much a request has in shared memory, before any of it is copied.

    Args:
        max_bytes: of files; their size is not known.

    Raises:
        InvalidRequestError: more or less than its shape says, or more than a message may have.
    """
    if given.place is None:
        return
    size_bytes = given.place.byte_size
    if given.form == PIXELS:
        _require_pixels(size_bytes, given.count * shape.height * shape.width * shape.channels)
    elif size_bytes > max_bytes:
        raise InvalidRequestError(_FIELD, f"{size_bytes} bytes of files, more than the {max_bytes} allowed")


def typed_size(given: RequestInput, content: memoryview | None) -> int:
    """Return how many pixels came as numbers, which are slow to take."""
    return 0 if given.raw or content is not None else len(given.tensor.contents.uint_contents)


def pixels(given: RequestInput, content: memoryview | None, shape: manifest_pb2.Input) -> Images:
    """Take the content of `PIXELS` as uint8 ``[N, H, W, C]``; raw bytes are not copied.

    Args:
        content: what was in shared memory; None to take it from the request.

    Raises:
        InvalidRequestError: more or less than the shape says, or values above 255.
    """
    axes = (given.count, shape.height, shape.width, shape.channels)
    size = int(np.prod(axes))
    flat: Images
    if content is None and not given.raw:
        flat = _typed_pixels(given.tensor.contents, size)
    else:
        flat = np.frombuffer(given.raw[0] if content is None else content, np.uint8)
        _require_pixels(len(flat), size)
    return flat.reshape(axes)  # [N, H, W, C]


def files(given: RequestInput, content: memoryview | None) -> Sequence[bytes | memoryview]:
    """Take the content of `FILES`, an encoded picture each; raw bytes are not copied.

    Args:
        content: what was in shared memory; None to take it from the request.

    Raises:
        InvalidRequestError: more or less than the shape says, or lengths that do not fit.
    """
    if content is None and not given.raw:
        _require_only(given.tensor.contents, "bytes_contents")
        elements: Sequence[bytes | memoryview] = list(given.tensor.contents.bytes_contents)
    else:
        elements = _elements(given.raw[0] if content is None else content, given.count)
    if len(elements) != given.count:
        raise InvalidRequestError(_FIELD, f"{len(elements)} elements, not {given.count}")
    return elements


def _elements(content: memoryview, most: int) -> list[memoryview]:
    """Cut raw BYTES into its elements, one more than there may be at the most."""
    elements: list[memoryview] = []
    position = 0
    while position < len(content) and len(elements) <= most:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(content[position:start], "little")
        if start > len(content) or position > len(content):
            raise InvalidRequestError(_FIELD, f"element {len(elements)} ends after the content does")
        elements.append(content[start:position])
    return elements


def _require_pixels(given_bytes: int, wanted_bytes: int) -> None:
    if given_bytes != wanted_bytes:
        raise InvalidRequestError(_FIELD, f"{given_bytes} bytes of pixels, not {wanted_bytes}")


def _typed_pixels(contents: Contents, size: int) -> Images:
    """Take typed contents as bytes.

    protobuf would give a Python object a value, slowly. As written by protobuf, a value up to 127 is one
    byte, and one up to 255 two, of which the first equals the value and the second is 1.
    """
    _require_only(contents, "uint_contents")
    if len(contents.uint_contents) != size:
        raise InvalidRequestError(_FIELD, f"{len(contents.uint_contents)} elements, not {size}")
    contents.DiscardUnknownFields()
    written = np.frombuffer(contents.SerializeToString(), np.uint8)
    length_end = 1 + int(np.argmax(written[1:] < 0x80))  # of the length, behind the tag
    packed = written[length_end + 1 :]
    second = np.concatenate(([False], packed[:-1] >= 0x80))
    if (packed[second] != 1).any():
        raise InvalidRequestError(_FIELD, "a value above 255")
    values: Images = packed[~second]
    return values


def _require_only(contents: Contents, wanted: str) -> None:
    """Check that typed contents are in the field of their type."""
    names = [descriptor.name for descriptor, _ in contents.ListFields()]
    if names != [wanted]:
        raise InvalidRequestError(f"{_FIELD}.contents", f"elements in {names or 'no field'}, not in {wanted}")
