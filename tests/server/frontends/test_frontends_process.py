"""A server with front ends as a group of processes: who ends with whom, and what is left."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from client import Client, ClientError
from server.ports import require_free
from tests.server.progress import wait_for

MODEL = "lenet5-digits"
BLANK = np.zeros((32, 32, 1), np.uint8)


class Group:
    """`modelzoo serve --frontends 2` in a process group of its own, ready when this is made."""

    def __init__(self, repository: Path, **environment: str) -> None:
        command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository)]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--frontends", "2"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
            process_group=0,
        )
        self.events: list[dict[str, str]] = []
        self.until("serving")
        self.address = next(event["grpc"] for event in self.events if event["event"] == "listening")

    @property
    def frontends(self) -> dict[int, int]:
        """The process of each front end that listened last."""
        return {e["frontend"]: e["pid"] for e in self.events if e["event"] == "frontend_listening"}

    def until(self, event: str) -> dict[str, str]:
        """Read the log until something is said."""
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"never said {event}: {self.events}")

    def rest(self) -> str:
        """Read the log to its end, which comes when all processes have ended."""
        return self.process.stderr.read()


@contextmanager
def started(repository: Path, **environment: str) -> Iterator[Group]:
    group = Group(repository, **environment)
    try:
        yield group
    finally:
        group.process.kill()
        group.process.wait()
        group.process.stderr.close()
        for pid in group.frontends.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def expect_free(address: str) -> None:
    host, _, port = address.rpartition(":")
    require_free(host, int(port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_front_ends_end_with_an_engine_that_is_killed_and_say_why(repository: Path) -> None:
    with started(repository) as group, Client(group.address) as client:
        assert len(client.classify(MODEL, [BLANK])[0]) == 5
        group.process.kill()
        said = [json.loads(line) for line in group.rest().splitlines()]  # until the last of them has ended
        assert {(line["event"], line["frontend"]) for line in said} == {
            ("engine_ended", 1),
            ("engine_ended", 2),
        }
        wait_for(lambda: not any(map(lives, group.frontends.values())))
        expect_free(group.address)
        with pytest.raises(ClientError) as caught:
            client.classify(MODEL, [BLANK])
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_with_frontend_exit_stop_the_server_ends_with_a_front_end(repository: Path) -> None:
    with started(repository, MODELZOO_FRONTEND_EXIT="stop") as group:
        os.kill(group.frontends[2], signal.SIGKILL)
        *_, last = map(json.loads, group.rest().splitlines())
        assert group.process.wait(60) == 1
        assert last["event"] == "ended"
        assert last["reason"] == "front end 2 ended (signal 9 (SIGKILL)), and frontend_exit is stop"
        assert not lives(group.frontends[1])
        expect_free(group.address)


@pytest.mark.parametrize("to_all", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_signal_to_the_engine_or_to_all_stops_the_group_in_order(repository: Path, to_all: bool) -> None:
    with started(repository) as group, Client(group.address) as client:
        assert len(client.classify(MODEL, [BLANK])[0]) == 5
        if to_all:  # a service manager's way
            for pid in group.frontends.values():
                os.kill(pid, signal.SIGTERM)
            group.process.terminate()
        else:  # a terminal's
            os.killpg(group.process.pid, signal.SIGINT)
        events = [json.loads(line)["event"] for line in group.rest().splitlines()]
        assert group.process.wait(60) == 0
        assert events == ["stopping", "frontend_stopped", "frontend_stopped", "stopped"]
        expect_free(group.address)


@pytest.mark.slow
def test_a_front_end_that_ends_again_and_again_ends_the_server(repository: Path) -> None:
    with started(repository) as group:
        for times in range(1, 7):
            os.kill(group.frontends[1], signal.SIGKILL)
            ended = group.until("frontend_ended")
            assert ended["cause"] == "signal 9 (SIGKILL)"
            if times < 6:
                group.until("frontend_listening")
        *_, last = map(json.loads, group.rest().splitlines())
        assert group.process.wait(60) == 1
        assert last["reason"] == "front end 1 ended 6 times in a row, at last with signal 9 (SIGKILL)"
