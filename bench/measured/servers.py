"""The server that is measured: one that is started for it, or one that runs."""

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from artifact.layout import Entry
from bench.errors import BenchError
from bench.measured import exposition, processes
from bench.measured.exposition import Work
from bench.plan import Plan
from client.client import Client
from client.errors import ClientError
from modelzoo.v1 import classifier_pb2

_STOP_S = 30.0
_SETTLED_S = 5.0
_LAST_WORDS_S = 1.0
_LINES = 20  # of the log that are kept, to say what went wrong


@dataclass(frozen=True)
class Arranged:
    """How a server runs batches: so many at the same time, on so many threads that they share."""

    lanes: int
    threads: int


class Server:
    """A server, as far as we can look into it.

    Attributes:
        pid: its process; None where that is not known.
        metrics_url: its metrics page; None where there is none that we can read.
        arranged: None where we do not know.
        started_here: whether it is ours, on this machine, and ends with the measurement.
    """

    def __init__(
        self,
        address: str,
        pid: int | None = None,
        metrics_url: str | None = None,
        arranged: Arranged | None = None,
        *,
        started_here: bool = False,
    ) -> None:
        self.address = address
        self.pid = pid
        self.metrics_url = metrics_url
        self.arranged = arranged
        self.started_here = started_here

    def work(self, model: str) -> Work | None:
        """Read what it has done for a model.

        Raises:
            BenchError: it does not answer.
        """
        return None if self.metrics_url is None else exposition.read(self.metrics_url, model)

    def cpu_s(self) -> float | None:
        """Return the processor time that it has used.

        Raises:
            BenchError: it has ended.
        """
        return None if self.pid is None else processes.cpu_s(self.pid)

    def memory_bytes(self) -> int | None:
        """Return the memory that it has in use.

        Raises:
            BenchError: it has ended.
        """
        return None if self.pid is None else processes.memory_bytes(self.pid)

    def unfinished_calls(self, model: str) -> int:
        """Count the calls that it still works on when it has had time to end them; 0 where it does not tell.

        Raises:
            BenchError: it does not answer.
        """
        ends_s = time.monotonic() + _SETTLED_S
        while (work := self.work(model)) is not None and work.unfinished_calls:
            if time.monotonic() > ends_s:
                return int(work.unfinished_calls)
            time.sleep(0.05)
        return 0


@contextmanager
def opened(plan: Plan, entry: Entry) -> Iterator[Server]:
    """Return the server that a plan asks for: the one at its address, or one that serves this model alone.

    Raises:
        BenchError: it cannot be started, or does not serve the model.
    """
    if plan.address is not None:
        yield Server(plan.address, plan.pid)
        return
    with TemporaryDirectory(prefix="modelzoo-bench-") as folder:
        # Of a large repository the other models would take their time to load, and memory.
        (Path(folder) / entry.name).symlink_to(entry.folder.parent.absolute())
        with started(plan, folder) as server:
            status = described(server, entry.name)
            if status.state != classifier_pb2.MODEL_STATE_READY:
                raise BenchError(f"{entry.name} is not served: {status.reason}")
            yield server


def described(server: Server, model: str) -> classifier_pb2.ModelStatus:
    """Ask a server of ours what it says of a model.

    Raises:
        BenchError: it cannot be reached, or has no such model.
    """
    try:
        with Client(server.address) as client:
            return client.get_model(model).status
    except ClientError as error:
        raise BenchError(complaint(error, server.address)) from error
    except ValueError as error:  # what is no address
        raise BenchError(str(error)) from error


def complaint(error: ClientError, address: str) -> str:
    """Say what a server refused, or that there is none."""
    return error.describe(address) if error.unreachable else f"{address}: {error.describe(address)}"


@contextmanager
def started(plan: Plan, repository: str) -> Iterator[Server]:
    """Start a server of a repository with a plan's settings; it has tried every model when it is given.

    Raises:
        BenchError: it cannot be started, or has ended.
    """
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", repository, "--log-format", "json"]
    command += ["--grpc-port", "0", "--metrics-port", "0"]
    options: dict[str, object] = {
        "--precision": plan.precision,
        "--device": plan.device,
        "--config": plan.config,
        "--frontends": plan.frontends,
        "--transport": plan.transport,
    }
    command += [word for flag, value in options.items() if value is not None for word in (flag, str(value))]
    with subprocess.Popen(  # noqa: S603 - our own command, and what its caller says
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        log = _Log(process)
        try:
            said = log.until("serving", "no_model_ready")
            yield Server(
                said["grpc"],
                process.pid,
                said["metrics"],
                Arranged(said["lanes"], said["intra_op_threads"]),
                started_here=True,
            )
            if process.poll() is not None:
                raise BenchError(f"the server ended: {log.last()}")
        except BenchError as error:
            if process.poll() is not None:
                raise BenchError(
                    f"the server ended with exit code {process.returncode}: {log.last()}"
                ) from error
            raise
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()


class _Log:
    """What a server says, read to its end, so that it can always say more."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._rest = threading.Thread(target=self._read_rest, daemon=True)

    def until(self, *events: str) -> dict[str, Any]:
        """Wait for one of some events, and give all fields that were said until then.

        Raises:
            BenchError: the server ended before.
        """
        said: dict[str, Any] = {}
        for line in self._process.stderr or ():
            self._lines.append(line)
            try:
                said |= json.loads(line)
            except (ValueError, TypeError):  # a line that did not come through the log
                continue
            if said.get("event") in events:
                self._rest.start()
                return said
        self._process.wait()
        raise BenchError("it did not start")

    def last(self) -> str:
        """Return the last line that says something."""
        if self._rest.ident is not None:
            self._rest.join(_LAST_WORDS_S)
        last = next((line.strip() for line in reversed(self._lines) if line.strip()), "it said nothing")
        return last.removeprefix("modelzoo: ")

    def close(self) -> None:
        """Read to the end; the server has ended."""
        self.last()

    def _read_rest(self) -> None:
        self._lines.extend(self._process.stderr or ())
