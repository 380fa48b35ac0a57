"""What `modelzoo serve` does only for show neither ends the server nor holds it up."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from cli import serve
from client import Client, ClientError
from tests.server.progress import wait_for

MODEL = "lenet5-digits"
LIMIT_S = 60  # then a server that hangs is ended, and the test fails


def test_the_hint_about_a_model_that_is_gone_names_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for repository in (tmp_path, tmp_path / "nowhere"):
        serve.hint(repository, "127.0.0.1:1234", MODEL)
        command = capsys.readouterr().out.partition(" classify ")[2]
        assert command == f"PICTURE --model {MODEL} --address 127.0.0.1:1234\n\n"


@pytest.mark.parametrize("error", [StopIteration(), OSError(28, "no space"), SystemExit(141), RuntimeError()])
def test_what_a_courtesy_raises_stays_in_its_thread(error: BaseException) -> None:
    def courtesy() -> None:
        raise error

    serve.in_background(courtesy).join()  # an exception that escaped a thread would fail this test


@contextmanager
def started(
    repository: Path, *prefix: str, **streams: Any
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start a server; give its process and its port."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    command = [*prefix, sys.executable, "-m", "cli.main", "serve", "--repository", str(repository)]
    command += ["--grpc-port", str(port), "--metrics-port", "0", "--device", "cpu"]
    with subprocess.Popen(command, **streams) as process:
        watchdog = threading.Timer(LIMIT_S, process.kill)
        watchdog.start()
        yield process, port
        watchdog.cancel()
        process.kill()


def serves(process: "subprocess.Popen[bytes]", port: int) -> bool:
    assert process.poll() is None, "the server ended"
    try:
        with Client(f"127.0.0.1:{port}", timeout_s=1) as client:
            return client.is_serving()
    except ClientError:
        return False


def ends_in_order(process: "subprocess.Popen[bytes]") -> bool:
    process.send_signal(signal.SIGTERM)
    return process.wait() == 0


@pytest.fixture
def full_pipe() -> Iterator[IO[bytes]]:
    """The end of a pipe that takes nothing more, and whose reader reads nothing."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    fcntl.fcntl(writer, fcntl.F_SETFL, 0)
    with os.fdopen(writer, "wb", buffering=0) as file:
        yield file
    os.close(reader)


@pytest.mark.slow
def test_a_reader_that_reads_nothing_does_not_hold_the_server_up(
    repository: Path, full_pipe: IO[bytes]
) -> None:
    with started(repository, stdout=full_pipe, stderr=subprocess.DEVNULL) as (process, port):
        wait_for(lambda: serves(process, port))
        assert ends_in_order(process)


@pytest.mark.slow
@pytest.mark.parametrize("place", [">&-", ">/dev/full", "2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_streams_that_cannot_be_written_leave_the_server_alone(repository: Path, place: str) -> None:
    shell = ("/bin/bash", "-c", f'exec "$@" {place}', "bash")
    with started(repository, *shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as (process, port):
        wait_for(lambda: serves(process, port))
        assert ends_in_order(process)


@pytest.mark.slow
def test_a_reader_that_left_leaves_the_server_alone(repository: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with started(repository, stdout=writer, stderr=writer) as (process, port):
        os.close(writer)
        wait_for(lambda: serves(process, port))
        assert ends_in_order(process)


@pytest.mark.slow
def test_a_model_that_is_removed_while_others_load_leaves_the_server_alone(scratch_repository: Path) -> None:
    with started(scratch_repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as (process, port):
        for line in process.stderr:
            if b"model_ready" in line and MODEL.encode() in line:
                shutil.rmtree(scratch_repository / MODEL)
                break
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        wait_for(lambda: serves(process, port))
        assert ends_in_order(process)
        drain.join()


def test_over_h2corn_the_command_speaks_for_itself_and_not_through_the_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "cli.main",
            "serve",
            "--repository",
            str(tmp_path),
            "--device",
            "cpu",
        ]
        command += ["--grpc-port", str(port), "--metrics-port", "0", "--transport", "h2corn"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode != 0
    assert run.stderr == f"modelzoo: cannot listen on 127.0.0.1:{port}: address already in use\n"
