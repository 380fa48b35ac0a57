"""Requests that a server has accepted when its stop begins, and how many of them it answers."""

import io
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from bench.errors import BenchError
from bench.hostile.calls import MODEL
from bench.hostile.subject import CLASSIFY, Subject, ask, channel, serving
from modelzoo.v1 import classifier_pb2

REQUESTS = 20
_ACCEPTED_S = 30.0
_GRACE_S = 20.0  # the server's default
_STREAM = "/modelzoo.v1.ClassifierService/ClassifyStream"
_RECEIVED = re.compile(
    rb'^grpc_server_msg_received_total\{.*grpc_method="(?:Classify|ClassifyStream)".*\} (.*)$', re.MULTILINE
)
# How the server is run, by what is the matter with it.
STATES: dict[str, tuple[str, ...]] = {
    "quiet": (),
    "streams": (),
    "log closed": (),
    "front ends": ("--frontends", "2"),
}


def lost(repository: Path, state: str) -> int:
    """Stop a server that has accepted requests; gives how many of them were not answered.

    Raises:
        BenchError: it does not serve, does not accept them, or does not end within its grace period.
    """
    with serving(repository, *STATES[state], log_closed=state == "log closed") as subject:
        one = _answered_on_a_stream if state == "streams" else _answered
        body = _slow_request()
        with ThreadPoolExecutor(REQUESTS) as clients:
            answers = [clients.submit(one, subject.target.grpc, body) for _ in range(REQUESTS)]
            _wait_until_accepted(subject)
            subject.process.send_signal(signal.SIGTERM)
            answered = sum(answer.result() for answer in answers)
        try:
            subject.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError("the server does not end") from error
        return REQUESTS - answered


def _slow_request() -> bytes:
    """Serialize a request that takes long enough to be under way when the signal comes.

    Its 16 megapixels, times the requests, are half of what may wait for decoders (`max_decoding_pixels`).
    """
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2000, 2000), np.uint8)).save(stream, "PNG", compress_level=1)
    request = classifier_pb2.ClassifyRequest(model=MODEL)
    for _ in range(4):
        request.images.add(encoded=stream.getvalue())
    return request.SerializeToString()


def _answered(address: str, body: bytes) -> bool:
    with channel(address) as one:
        try:
            ask(one, CLASSIFY, body, 2 * _GRACE_S)
        except grpc.RpcError:
            return False
        return True


def _answered_on_a_stream(address: str, body: bytes) -> bool:
    """Ask once, and leave the stream open until it is answered."""
    answered, done = False, threading.Event()

    def bodies() -> Iterator[bytes]:
        yield body
        done.wait(2 * _GRACE_S)

    with channel(address) as one:
        try:
            call: grpc.StreamStreamMultiCallable[bytes, bytes] = one.stream_stream(_STREAM)
            for _ in call(bodies(), timeout=2 * _GRACE_S):
                answered = True
                done.set()
        except grpc.RpcError:
            return False
        finally:
            done.set()
        return answered


def _wait_until_accepted(subject: Subject) -> None:
    """Wait until the messages of all requests have come, by the server's own count.

    Raises:
        BenchError: it does not.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends_s = time.monotonic() + _ACCEPTED_S
    while time.monotonic() < ends_s:
        with direct.open(f"http://{subject.target.metrics}/metrics", timeout=10) as page:
            if sum(map(float, _RECEIVED.findall(page.read()))) >= REQUESTS:
                return
        time.sleep(0.05)
    raise BenchError(f"the server did not accept {REQUESTS} requests within {_ACCEPTED_S:.0f} s")
