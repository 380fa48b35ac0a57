"""What attacks are made of: calls, streams that are held open, and the same by many connections at a time."""

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.hostile import http2
from bench.hostile.http2 import Connection, grpc_message
from modelzoo.v1 import classifier_pb2

MODEL = "lenet5-digits"
_CALL_S = 60.0  # what a call of an attack may take


class Target(NamedTuple):
    """The ports of a server, each ``host:port``."""

    grpc: str
    metrics: str


def png(width: int, height: int) -> bytes:
    """Encode a black picture."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def pictures(*encoded: bytes) -> bytes:
    """Serialize a request with encoded pictures, as a gRPC message."""
    request = classifier_pb2.ClassifyRequest(model=MODEL)
    for file in encoded:
        request.images.add(encoded=file)
    return grpc_message(request.SerializeToString())


def calls(target: Target, path: bytes, body: bytes, *more: http2.Field) -> Callable[[int], None]:
    """Make a call, over a connection of its own, and wait for its end."""

    def call(_: int) -> None:
        connection = Connection(target.grpc)
        try:
            stream = connection.open(path, *more)
            connection.write(stream, body)
            connection.wait(stream, timeout_s=_CALL_S)
        finally:
            connection.close()

    return call


def quiet(
    target: Target, path: bytes, streams: int, stop: threading.Event, body: bytes = b""
) -> Callable[[int], None]:
    """Open streams on a connection and hold them; a body is sent on each, and nothing after it."""

    def hold(_: int) -> None:
        connection = Connection(target.grpc)
        for _ in range(streams):
            stream = connection.open(path)
            connection.write(stream, body)
        while not stop.is_set() and not connection.closed:
            connection.wait(-1, timeout_s=1.0)

    return hold


def repeat(one: Callable[[int], None], stop: threading.Event, first: int = 0) -> None:
    """Go on with what may end at any time, because the server closes connections that it dislikes."""
    turn = first
    while not stop.is_set():
        with suppress(OSError):
            one(turn)
        turn += 1
        stop.wait(0.01)  # a server that refuses connections at once is asked a hundred times a second


def side_by_side(count: int, one: Callable[[int], None], stop: threading.Event) -> None:
    """Go on with the same on many threads until it is time to stop."""
    for first in range(count):
        threading.Thread(target=repeat, args=(one, stop, first), daemon=True).start()
    stop.wait()
