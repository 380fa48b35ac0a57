"""A server that is told to stop: nothing accepted is lost, nobody can hold it up, and it exits 0."""

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from client import Client, ClientError

MODEL = "lenet5-digits"
PIXELS = np.zeros((32, 32, 1), np.uint8)
# The default grace is 20 s: a server that waits for it in vain is still there after this.
FAR_LESS_THAN_THE_GRACE_S = 12


class Process:
    """`modelzoo serve` in a process of its own, ready when this is made."""

    def __init__(self, repository: Path, **environment: str) -> None:
        command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository)]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--device", "cpu"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment or None)
        self.events: list[dict[str, str]] = []
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == "serving":
                break
        self.address = next(event["grpc"] for event in self.events if event["event"] == "listening")

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Tell it to stop; give its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(FAR_LESS_THAN_THE_GRACE_S)


@pytest.fixture
def process(repository: Path) -> Iterator[Process]:
    running = Process(repository)
    yield running
    running.process.kill()
    running.process.wait()
    running.process.stderr.close()


def watch_without_reading(address: str) -> socket.socket:
    """Open Health/Watch over raw HTTP/2 with a window of zero: the server can never write an answer."""

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body

    def header(name: bytes, value: bytes) -> bytes:  # literal, not indexed
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = b"".join(
        header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/grpc.health.v1.Health/Watch"),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    window_of_zero = struct.pack(">HI", 4, 0)
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, window_of_zero)
        + frame(4, 1, 0, b"")
        + frame(1, 4, 1, headers)
        + frame(0, 1, 1, bytes(5))
    )
    seen = b""
    while b"\x01\x04\x00\x00\x00\x01" not in seen:  # the answer's headers; its body can never come
        seen += connection.recv(4096)
    return connection


def test_a_watcher_that_never_reads_holds_up_neither_the_others_nor_the_stop(process: Process) -> None:
    with watch_without_reading(process.address), Client(process.address) as client:
        assert client.is_serving()
        assert len(client.classify(MODEL, [PIXELS])[0]) == 5
        assert process.stop() == 0


def test_streams_that_only_listen_do_not_hold_up_the_stop(process: Process) -> None:
    forever = threading.Event()

    def no_requests() -> Iterator[None]:
        forever.wait()
        yield from ()

    with grpc.insecure_channel(process.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(no_requests())
        assert process.stop() == 0
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        forever.set()


def test_clients_of_a_stopping_server_are_answered_or_told_that_it_is_unavailable(process: Process) -> None:
    codes: list[grpc.StatusCode] = []
    answered = threading.Semaphore(0)

    def ask() -> None:
        with Client(process.address) as client:
            while True:
                try:
                    client.classify(MODEL, [PIXELS])
                except ClientError as error:
                    codes.append(error.code)
                    return
                answered.release()

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        answered.acquire()
    assert process.stop() == 0
    for thread in threads:
        thread.join()
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 16


def test_a_picture_that_is_being_decoded_does_not_hold_up_the_exit(process: Process, encode) -> None:
    slow = encode(np.zeros((6300, 6300, 1), np.uint8))
    with Client(process.address) as client:
        with pytest.raises(ClientError) as caught:
            client.classify(MODEL, [slow] * 4, timeout_s=0.05)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert process.stop() == 0


def test_a_second_signal_ends_the_grace_period(start_server, gates) -> None:
    running = start_server(open_network=gates, grace_s=600)
    gates[MODEL].shut()
    with running.client() as client:

        def ask() -> None:
            with pytest.raises(ClientError):
                client.classify(MODEL, [PIXELS])

        asking = threading.Thread(target=ask)
        asking.start()
        gates[MODEL].entered.acquire()
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        running.force_stop()
        asking.join()  # its call was cancelled; without a hurry it would hang here for ten minutes
        gates[MODEL].gate.set()
        stopping.join()
