"""Addresses as gRPC writes them, and one line for a port that cannot be had."""

import contextlib
import ipaddress
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import Client
from server import ports
from server.errors import StartError
from tests.server.raw_peer import RawPeer, prefixed

MODEL = "lenet5-digits"
PIXELS = np.zeros((32, 32, 1), np.uint8)
MAX_STREAMS = 2 * 1024  # our own limit on calls of a connection comes first
WATCHES_PER_CONNECTION = 256


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


@pytest.mark.parametrize(
    ("host", "numeric"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),  # and ::1, where a machine has both
        ("127.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
    ],
)
def test_a_host_means_one_numeric_address(host: str, numeric: str) -> None:
    assert ports.resolve(host) == numeric


NO_HOSTS = {
    "": "host is empty; give an address, or 0.0.0.0 for every interface",
    " ": "cannot listen on host ' ': not a host name",
    "a b": "cannot listen on host 'a b': not a host name",
    "127.0.0.1 b": "cannot listen on host '127.0.0.1 b': not a host name",
    "127.0.0.1\n": "cannot listen on host '127.0.0.1\\n': not a host name",
    "127.0.0.1\0b": "cannot listen on host '127.0.0.1\\x00b': not a host name",
    "\u202eb": "cannot listen on host '\\u202eb': not a host name",
    "\ud800": "cannot listen on host '\\ud800': not a host name",
    "a..b": "cannot listen on host 'a..b': not a host name",
    "x" * 300: f"cannot listen on host '{'x' * 100}': not a host name",
    "224.0.0.1": "cannot listen on host '224.0.0.1': an address of many machines",
    "255.255.255.255": "cannot listen on host '255.255.255.255': an address of many machines",
}


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_host_that_is_none_ends_the_start_in_one_line(start_empty, host: str) -> None:
    with pytest.raises(StartError) as caught:
        start_empty(host=host)
    assert str(caught.value) == NO_HOSTS[host]


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "\xfc.invalid", "[::1]", "127.0.0.1:80", "*", "::%no"]
)
def test_a_host_that_is_not_known_ends_the_start_in_one_line(start_empty, host: str) -> None:
    with pytest.raises(StartError, match=r"^cannot listen on host '.*': [a-z ]+$"):
        start_empty(host=host)


def test_a_host_of_another_machine_ends_the_start_in_one_line(start_empty) -> None:
    with pytest.raises(
        StartError, match=r"^cannot listen on 192\.0\.2\.1:0: cannot assign requested address$"
    ):
        start_empty(host="192.0.2.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("taker", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_port_is_free_where_no_address_of_the_host_is_taken(ipv6: str, host: str, taker: str) -> None:
    family = socket.AF_INET6 if ":" in taker else socket.AF_INET
    with socket.create_server((taker, 0), family=family) as taken:  # of `::`, without IPv4
        port = taken.getsockname()[1]
        if (host == "127.0.0.1" and ":" in taker) or (host == "::1" and "." in taker):
            ports.require_free(host, port)
        else:
            assert why_not(host, port).endswith(": address already in use")


@pytest.mark.parametrize("setting", ["grpc_port", "metrics_port"])
@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::"])
def test_a_taken_port_ends_the_start_in_one_line(start_empty, ipv6: str, host: str, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            start_empty(host=host, **{setting: port})
    shown = ports.address_of(ports.resolve(host), port)
    assert str(caught.value) == f"cannot listen on {shown}: address already in use"


def test_one_port_for_both_ends_the_start_in_one_line(start_empty) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with pytest.raises(StartError) as caught:
        start_empty(grpc_port=port, metrics_port=port)
    assert str(caught.value) == f"grpc_port and metrics_port are both {port}; each needs its own"


@pytest.mark.parametrize("frontends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_server_on_the_port_of_one_that_runs_ends_in_one_line(start_empty, frontends: int) -> None:
    port = start_empty(frontends=frontends).server.grpc_port
    for more in (0, 1):
        with pytest.raises(StartError) as caught:
            start_empty(frontends=more, grpc_port=port)
        assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: address already in use"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_that_listeners_share_is_taken_for_others(ipv6: str, host: str) -> None:
    with ports.reserve(host, 0) as reserved:
        port = reserved.getsockname()[1]
        assert "address already in use" in why_not(host, port)  # before any of them listens
        with socket.socket(reserved.family) as sharing:
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
            sharing.bind(reserved.getsockname())
            sharing.listen()
            assert "address already in use" in why_not(host, port)
            with pytest.raises(StartError):
                ports.reserve(host, port)


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "frontends", "reached"),
    [
        ("localhost", 0, {"127.0.0.1"}),
        ("127.0.0.1", 0, {"127.0.0.1"}),
        ("::1", 0, {"::1"}),
        ("0.0.0.0", 0, {"127.0.0.1", "::1"}),  # to gRPC both wildcards are all interfaces
        ("::", 0, {"127.0.0.1", "::1"}),
        pytest.param("localhost", 2, {"127.0.0.1"}, marks=pytest.mark.slow),
        pytest.param("0.0.0.0", 2, {"127.0.0.1", "::1"}, marks=pytest.mark.slow),
    ],
)
def test_both_ports_listen_on_the_same_addresses_and_the_shown_ones_reach_them(
    start_empty, ipv6: str, host: str, reached: set[str], frontends: int
) -> None:
    running = start_empty(host=host, frontends=frontends)
    for port in (running.server.grpc_port, running.server.metrics_port):
        assert {one for one in ("127.0.0.1", "::1") if answers(one, port)} == reached
    with grpc.insecure_channel(running.server.address) as channel:
        said = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert said.status == health_pb2.HealthCheckResponse.NOT_SERVING
    [listening] = [line for line in running.log.getvalue().splitlines() if '"listening"' in line]
    assert json.loads(listening)["grpc"] == running.server.address
    shown = urllib.parse.urlsplit(json.loads(listening)["metrics"])
    assert answers(shown.hostname, shown.port)


def test_a_link_local_address_with_its_scope_is_listened_on(start_empty) -> None:
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    scoped = [f"{ipaddress.IPv6Address(int(line[0], 16))}%{line[5]}" for line in lines if line[3] == "20"]
    if not scoped:
        pytest.skip("no interface here has a link-local address")
    running = start_empty(host=scoped[0])
    with grpc.insecure_channel(running.server.address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)


NOBODY = 65534
STARTS = """
import asyncio, os, sys
from pathlib import Path
from server import config
from server.app import Server
from server.observability import logs

def start(**settings):
    settings = {"device": "cpu", "grpc_port": 0, "metrics_port": 0} | settings

    async def run():
        await Server(config.Settings(**settings), logs.make("json", sys.stderr)).open()

    asyncio.run(run())

start()  # imports all that a start needs: afterwards, the interpreter's own files may be out of reach
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)
for line in sys.stdin.read().splitlines():
    try:
        eval(line)
        print("started")
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
sys.stdout.flush()
os._exit(0)
"""


def start_without_rights(*lines: str) -> list[str]:
    """Run starts in a process that is not root's; gives how each ends."""
    command = [sys.executable, "-c", STARTS.replace("NOBODY", str(NOBODY))]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow  # it imports a server anew
def test_a_start_that_needs_rights_names_the_user_and_what_it_takes() -> None:
    every_port = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 1024
    uid, gid = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    owner, denied = f"{os.geteuid()}:{os.getegid()}", f"permission denied for uid {uid}"
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(5)]
        closed, listed, entered, above, open_ = folders
        (above / "models").mkdir()
        settings = open_ / "modelzoo.toml"
        settings.touch(0o000)
        for folder, mode in zip(folders, (0o000, 0o444, 0o111, 0o000, 0o755), strict=True):
            stack.callback(folder.chmod, 0o700)
            folder.chmod(mode)
        said = start_without_rights(
            *(f"start(repository={str(path)!r})" for path in (closed, listed, entered, above / "models")),
            f"config.load({{}}, Path({str(settings)!r}))",
            f"start(repository={str(open_)!r})",
            "start(grpc_port=1023)",
            "start(metrics_port=1023)",
        )
    cannot = "StartError: repository: cannot read"
    needed = "a port below 1024 needs CAP_NET_BIND_SERVICE"
    port = f"StartError: cannot listen on 127.0.0.1:1023: {denied}; {needed}"
    assert said == [
        f"{cannot} {closed}: {denied}, gid {gid}; it needs r-x, and is d--------- of {owner}",
        f"{cannot} {listed}: {denied}, gid {gid}; it needs r-x, and is dr--r--r-- of {owner}",
        f"{cannot} {entered}: {denied}, gid {gid}; it needs r-x, and is d--x--x--x of {owner}",
        f"{cannot} {above}/models: {denied}, gid {gid}; it needs r-x, and the folders above it --x",
        f"StartError: settings file: cannot read {settings}: {denied}, gid {gid}; "
        f"it needs r--, and is ---------- of {owner}",
        "started",
        *(["started"] * 2 if every_port else [port] * 2),
    ]


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
    with RawPeer(server.address) as peer:
        watches = [peer.call(b"/grpc.health.v1.Health/Watch") for _ in range(WATCHES_PER_CONNECTION + 40)]
        for watch in watches:
            peer.send(watch, prefixed(b""), half_closed=True)
        while len(peer.ended) < 40 and not peer.closed:
            peer.receive(0.05)
        assert [peer.end_of(watch)[b"grpc-status"] for watch in peer.ended] == [b"8"] * 40
        with server.client() as client:
            assert len(client.classify(MODEL, [PIXELS])[0]) == 5
            assert client.is_serving()
        assert len(peer.ended) == 40
