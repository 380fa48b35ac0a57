"""What a peer sends as text reaches standard error neither raw nor unbounded."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from client import Client
from tests.server.progress import wait_for

FORGED = b'{"event": "serving", "level": "info"}\n\x1b[2Jowned\n'
ENHANCE_YOUR_CALM = 0xB


def go_away(address: str, debug: bytes, times: int) -> None:
    """Open connections that say goodbye with a text, and wait until the server has hung up on each."""
    host, _, port = address.rpartition(":")
    settings = struct.pack(">I", 0)[1:] + b"\x04\x00" + struct.pack(">I", 0)
    body = struct.pack(">II", 0, ENHANCE_YOUR_CALM) + debug
    frame = struct.pack(">I", len(body))[1:] + b"\x07\x00" + struct.pack(">I", 0) + body
    for _ in range(times):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass


@pytest.mark.parametrize(
    ("frontends", "verbosity"),
    [
        ("0", None),
        pytest.param("2", "INFO", marks=pytest.mark.slow),
    ],
)
def test_the_text_of_a_goaway_is_no_line_of_the_log(
    tmp_path: Path, frontends: str, verbosity: str | None
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if verbosity:  # an operator wants to see; even then every line is an event
        environment["GRPC_VERBOSITY"] = verbosity
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(tmp_path)]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--device", "cpu"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([*command, "--frontends", frontends], stderr=stderr, env=environment)
    try:
        wait_for(lambda: b'"no_model_ready"' in log.read_bytes())
        events = list(map(json.loads, log.read_text().splitlines()))
        [address] = [event["grpc"] for event in events if event["event"] == "listening"]
        go_away(address, FORGED + b"x" * 10_000, 200)
        with Client(address) as client:
            assert client.list_models() == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert len(text) < 500_000
    events = [json.loads(line) for line in text.splitlines()]
    assert not any(event["event"] == "serving" for event in events)
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    if verbosity is None:
        assert "owned" not in text
