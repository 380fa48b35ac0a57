"""Addresses as gRPC writes them, and one line for a port that cannot be had."""

import re
import socket
import struct
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import Client
from server import ports
from server.errors import StartError

MODEL = "lenet5-digits"
PIXELS = np.zeros((32, 32, 1), np.uint8)
MAX_STREAMS = 128


@pytest.fixture
def ipv6() -> str:
    """This machine's own IPv6 address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    return "::1"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:8001"),
        ("localhost", "localhost:8001"),
        ("::1", "[::1]:8001"),
        ("::", "[::]:8001"),
    ],
)
def test_an_address_has_brackets_where_the_host_has_colons(host: str, address: str) -> None:
    assert ports.address_of(host, 8001) == address


def why_not(host: str, port: int) -> str:
    with pytest.raises(StartError) as caught:
        ports.require_free(host, port)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert why_not("127.0.0.1", port) == f"cannot listen on 127.0.0.1:{port}: address already in use"
    ports.require_free("127.0.0.1", port)


def test_a_port_in_use_is_told_in_one_line_with_ipv6_too(ipv6: str) -> None:
    with socket.create_server((ipv6, 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        assert why_not(ipv6, port) == f"cannot listen on [::1]:{port}: address already in use"
    ports.require_free(ipv6, port)


def test_a_host_that_is_not_ours_is_told_in_one_line() -> None:
    # 192.0.2.0/24 is for documentation: no machine has such an address.
    line = why_not("192.0.2.1", 8001)
    assert line == "cannot listen on 192.0.2.1:8001: cannot assign requested address"


def test_a_server_listens_on_ipv6(start_server, ipv6: str) -> None:
    running = start_server(host=ipv6)
    assert re.fullmatch(r"\[::1\]:\d+", running.server.address)
    with Client(running.server.address) as client:
        assert len(client.classify(MODEL, [PIXELS])[0]) == 5


def test_connections_that_never_say_a_word_keep_nobody_waiting(server) -> None:
    host, _, port = server.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        with server.client() as client:
            assert len(client.classify(MODEL, [PIXELS])[0]) == 5
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.slow  # the server waits ten seconds for a first word
def test_a_connection_that_never_says_a_word_is_closed(server) -> None:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.settimeout(60)
        while silent.recv(4096):  # gRPC says its own first words at once
            pass


def test_a_connection_is_told_how_many_streams_it_may_have(server) -> None:
    """Read the server's first frame: HTTP/2's SETTINGS, six bytes a setting; 3 is the streams."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        size_bytes, kind = struct.unpack(">I", b"\0" + stream.read(3))[0], stream.read(1)
        stream.read(5)  # flags and stream
        body = stream.read(size_bytes)
    assert kind == b"\x04"
    assert dict(struct.iter_unpack(">HI", body))[3] == MAX_STREAMS


def test_streams_without_end_on_one_connection_leave_the_others_alone(server) -> None:
    told = threading.Semaphore(0)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service="")) for _ in range(2 * MAX_STREAMS)]

        def read(watch: grpc.Call) -> None:
            try:
                next(watch)
            except grpc.RpcError:  # still waiting for its turn when the test ended
                return
            told.release()

        threads = [threading.Thread(target=read, args=(watch,)) for watch in watches]
        for thread in threads:
            thread.start()
        for _ in range(MAX_STREAMS):
            told.acquire()
        with server.client() as client:
            assert len(client.classify(MODEL, [PIXELS])[0]) == 5
        assert not told.acquire(blocking=False)
        for watch in watches:
            watch.cancel()
        for thread in threads:
            thread.join()
