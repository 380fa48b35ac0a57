"""Mutated calls over the wire: paths, metadata, messages and frames of valid calls, changed at random.

After each batch the server must answer a valid call; no batch may take longer than its answers' time limit.
"""

import random
import struct
from collections.abc import Sequence
from contextlib import closing

from bench.errors import BenchError
from bench.hostile import http2
from bench.hostile.attacks import CLASSIFY, INFER, STREAM, WATCH
from bench.hostile.calls import MODEL
from bench.hostile.http2 import Connection, frame, grpc_fields, grpc_message, header_block
from bench.hostile.subject import Subject, black_digit
from modelzoo.v1 import classifier_pb2, open_inference_pb2

CALLS = 20_000
_CALLS_A_CONNECTION = 50
_CONNECTIONS_A_CHECK = 20
_END_S = 0.5  # for the calls of a connection to end: some wait for more, which is no fault

_ODD = (b"\0", b"\xff", b"\n", b"\x1b[2J", b"%s", b"\xc3\x28", b"/")


def valid_calls() -> list[tuple[bytes, bytes]]:
    """Return paths and messages that a server with the digits models answers."""
    infer = open_inference_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(32 * 32)])
    infer.inputs.add(name="images", datatype="UINT8", shape=[1, 32, 32, 1])
    named = classifier_pb2.GetModelRequest(name=MODEL).SerializeToString()
    service = b"/modelzoo.v1.ClassifierService/"
    protocol = b"/inference.GRPCInferenceService/"
    return [
        (CLASSIFY, black_digit()),
        (STREAM, black_digit()),
        (service + b"ListModels", b""),
        (service + b"GetModel", named),
        (INFER, infer.SerializeToString()),
        (protocol + b"ModelStreamInfer", infer.SerializeToString()),
        (protocol + b"ServerReady", b""),
        (protocol + b"ModelMetadata", named),
        (b"/grpc.health.v1.Health/Check", b""),
        (WATCH, b""),
        (b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"\x3a\x00"),
    ]


def mutated(chance: random.Random, content: bytes) -> bytes:
    """Change bytes: some flipped, cut, doubled, or put in."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(5)
        if kind == 0 and changed:
            changed[place % len(changed)] = chance.randrange(256)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            changed[place:place] = chance.randbytes(chance.choice((1, 4, 300)))
        elif kind == 3:
            changed += changed[place:]
        else:
            changed[place:place] = chance.choice(_ODD)
    return bytes(changed)


def frames_of_a_call(chance: random.Random, stream: int, calls: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Build the frames of a call of which one part is mutated."""
    path, content = chance.choice(calls)
    metadata: list[http2.Field] = [(b"x-request-id", b"7"), (b"grpc-timeout", b"1S")]
    part = chance.choice(("path", "metadata", "content", "prefix", "block", "frames", "field"))
    if part == "path":
        path = mutated(chance, path)
    elif part == "metadata":
        names = (b"grpc-encoding", b"grpc-timeout", b"x-bin", b"content-type", b"te", b"grpc-trace-bin", b"X")
        metadata = [(chance.choice(names), mutated(chance, b"identity"))]
    elif part == "content":
        content = mutated(chance, content)
    fields = grpc_fields(path, *metadata)
    if part == "field":
        del fields[chance.randrange(len(fields))]
    block, body = header_block(fields), grpc_message(content)
    if part == "block":
        block = mutated(chance, block)
    elif part == "prefix":
        body = mutated(chance, body[:5]) + content
    flags = http2.END_HEADERS | (http2.END_STREAM if chance.random() < 0.05 else 0)
    sent = frame(http2.HEADERS, flags, stream, block[:16_384])
    sent += frame(http2.DATA, http2.END_STREAM, stream, body[:16_384])
    if chance.random() < 0.05:
        sent += frame(http2.RST_STREAM, 0, stream, struct.pack(">I", chance.randrange(14)))
    return mutated(chance, sent) if part == "frames" else sent


def run(subject: Subject, seed: int = 0, calls: int = CALLS) -> int:
    """Send mutated calls; gives how many connections the server closed.

    Raises:
        BenchError: the server ended, or does not answer any more.
    """
    chance = random.Random(seed)
    valid = valid_calls()
    sent = closed = connections = 0
    while sent < calls:
        streams: list[int] = []
        try:
            with closing(Connection(subject.target.grpc)) as connection:
                while len(streams) < min(_CALLS_A_CONNECTION, calls - sent) and not connection.closed:
                    streams.append(2 * len(streams) + 1)
                    connection.send(frames_of_a_call(chance, streams[-1], valid))
                connection.wait(*streams, timeout_s=_END_S)
                closed += connection.closed
        except OSError:
            closed += 1
        sent += len(streams)
        connections += 1
        if subject.process.poll() is not None:
            raise BenchError(f"the server ended after {sent} mutated calls of seed {seed}")
        if (connections % _CONNECTIONS_A_CHECK == 0 or sent >= calls) and not subject.answers():
            raise BenchError(f"the server does not answer after {sent} mutated calls of seed {seed}")
    return closed
