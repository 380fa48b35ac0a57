"""Weights that an ONNX file keeps in other files beside it, as exporters do with large ones.

Where they lie is what the file says, and it is taken for hostile: only regular files in the file's own
folder, or below it, are read, and no more than one file could hold.
"""

import hashlib
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto, helper

from export.onnx_import.onnx_file import MAX_BYTES, OnnxImportError
from modelzoo.v1 import manifest_pb2

_PACKED = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)  # two numbers a byte


def embed(
    tensors: Iterable[onnx.TensorProto], folder: Path, room_bytes: int
) -> tuple[manifest_pb2.File, ...]:
    """Read what tensors keep in other files into the tensors.

    Args:
        tensors: changed in place.
        folder: of the ONNX file.
        room_bytes: what all of it together may take.

    Returns:
        The files as they were read, by their paths beside the ONNX file, in the order of their first use.

    Raises:
        OnnxImportError: a file cannot be read, is outside the folder or none, or holds too little; or all is
            larger than one file may be.
    """
    contents: dict[str, bytes] = {}
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size_bytes = _size_bytes(tensor)
        room_bytes -= size_bytes
        if room_bytes < 0:
            raise _too_large()
        if (length := _number(entries, "length", size_bytes)) != size_bytes:
            raise OnnxImportError(
                f"{_name(tensor)} takes {size_bytes:,} bytes, its external data has {length:,}"
            )
        location, start = entries.get("location", ""), _number(entries, "offset", 0)
        if location not in contents:
            contents[location] = _read(folder, location, MAX_BYTES - sum(map(len, contents.values())))
        content, end = contents[location], start + size_bytes
        if end > len(content):
            raise OnnxImportError(
                f"its external data {location!r} has {len(content):,} bytes where {end:,} are needed"
            )
        tensor.raw_data = content[start:end]
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return tuple(
        manifest_pb2.File(name=location, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for location, content in contents.items()
    )


def _read(folder: Path, location: str, limit_bytes: int) -> bytes:
    """Read a file inside a folder."""
    place = PurePosixPath(location)
    if not location or "\0" in location or place.is_absolute() or ".." in place.parts:
        raise OnnxImportError(f"its external data {location!r} is not inside its folder")
    try:
        path = (folder / place).resolve(strict=True)
        if not path.is_relative_to(folder.resolve(strict=True)):  # by a symbolic link
            raise OnnxImportError(f"its external data {location!r} is a link that leaves its folder")
        # What is no regular file must not be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OnnxImportError(f"its external data {location!r} is not a regular file")
            if os.fstat(descriptor).st_size > limit_bytes:
                raise _too_large()
            return stream.read(limit_bytes)
    except (OSError, RuntimeError) as error:  # the latter: links in a circle
        cause = error.strerror if isinstance(error, OSError) else "links in a circle"
        raise OnnxImportError(
            f"it keeps weights in another file beside it, and {location!r} cannot be read: {cause}"
        ) from error


def _too_large() -> OnnxImportError:
    return OnnxImportError(f"with its external data it is larger than {MAX_BYTES + 1 >> 30} GiB")


def _size_bytes(tensor: onnx.TensorProto) -> int:
    """Return what the numbers of a tensor take."""
    if tensor.data_type in _PACKED:
        bits = 4
    else:
        try:
            bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, TypeError, ValueError):
            bits = 0
    if bits == 0 or tensor.data_type == TensorProto.STRING or min(tensor.dims, default=0) < 0:
        raise OnnxImportError(f"{_name(tensor)} is in another file, and is no tensor of numbers")
    return -(-bits * math.prod(tensor.dims) // 8)


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise OnnxImportError(f"the {key} of its external data is {text!r}, no number of bytes")
    return int(text)


def _name(tensor: onnx.TensorProto) -> str:
    return tensor.name or "a constant"
