"""A server under attack: its process, its memory, and the clients that must not notice."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from bench.errors import BenchError
from bench.hostile.calls import MODEL, Target
from bench.measured.processes import family
from client.channels import open_channel
from modelzoo.v1 import classifier_pb2

_START_S = 60.0
_HEALTH_EVERY_S = _HEALTH_DEADLINE_S = 1.0
_CALLS_PER_S = 20
_CALL_DEADLINE_S = 10.0
_SAMPLE_EVERY_S = 0.1
_KILOBYTE = 1024
_ATTACKERS_NICE = 5
CHECK, CLASSIFY = "/grpc.health.v1.Health/Check", "/modelzoo.v1.ClassifierService/Classify"
_CHANNEL = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own


def channel(address: str) -> grpc.Channel:
    """Open a connection that no other channel shares."""
    return open_channel(address, _CHANNEL)


def ask(one: grpc.Channel, path: str, body: bytes, timeout_s: float) -> bytes:
    """Make a call.

    Raises:
        grpc.RpcError: it failed.
    """
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = one.unary_unary(path)
    return call(body, timeout=timeout_s)


def black_digit() -> bytes:
    """Serialize a request that every server with the digits models answers."""
    pixels = classifier_pb2.Pixels(height=32, width=32, channels=1, data=bytes(32 * 32))
    return classifier_pb2.ClassifyRequest(
        model=MODEL, images=[classifier_pb2.Image(pixels=pixels)]
    ).SerializeToString()


@dataclass
class Subject:
    """A running server.

    Attributes:
        events: how often its log had an event of each name at level warning or above.
        broken_lines: of its log, that were not JSON.
    """

    process: "subprocess.Popen[str]"
    target: Target
    events: Counter[str] = field(default_factory=Counter)
    broken_lines: int = 0

    def read_log(self) -> None:
        """Count what the log says until it ends; it must be read, or the server waits."""
        for line in self.process.stderr or ():
            try:
                event = json.loads(line)
                if event["level"] in {"warning", "error", "critical"}:
                    self.events[event["event"]] += 1
            except (ValueError, TypeError, KeyError):
                self.broken_lines += 1

    def memory_bytes(self) -> int:
        """Return what the server's processes hold; memory that they share is counted once.

        Raises:
            BenchError: it has ended.
        """
        own = shared = 0
        for pid in family(self.process.pid):
            held = _memory(pid)
            own += held.get("RssAnon", 0) + held.get("RssFile", 0)
            shared = max(shared, held.get("RssShmem", 0))
        return own + shared

    def answers(self) -> bool:
        """Return whether a new client gets an answer."""
        with channel(self.target.grpc) as one:
            try:
                ask(one, CLASSIFY, black_digit(), _CALL_DEADLINE_S)
            except grpc.RpcError:
                return False
        return True


@contextmanager
def serving(
    repository: Path, *options: str, cores: set[int] | None = None, log_closed: bool = False
) -> Iterator[Subject]:
    """Run `modelzoo serve` on free ports.

    Args:
        options: of the command, further ones.
        cores: that it may use; all when None.
        log_closed: whether the pipe that it logs to is closed as soon as it serves.

    Raises:
        BenchError: it ends, or does not serve in time.
    """
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository), "--device", "cpu"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", *options]
    process = subprocess.Popen(  # noqa: S603 - no shell
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    _confine(process.pid, cores)
    watchdog = threading.Timer(_START_S, process.kill)
    watchdog.start()
    reader = None
    try:
        subject = Subject(process, _target(process))
        watchdog.cancel()
        if log_closed and process.stderr is not None:
            process.stderr.close()
        else:
            reader = threading.Thread(target=subject.read_log)
            reader.start()
        yield subject
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if reader is not None:
            reader.join()
        if process.stderr is not None:
            process.stderr.close()


def _target(process: "subprocess.Popen[str]") -> Target:
    """Read the log until the server serves; give its ports.

    Raises:
        BenchError: it ended before.
    """
    target = None
    for line in process.stderr or ():
        event = json.loads(line)
        if event["event"] == "listening":
            target = Target(event["grpc"], event["metrics"].removeprefix("http://").partition("/")[0])
        if event["event"] == "serving" and target is not None:
            return target
    raise BenchError("the server ended, or hung, before it served")


@dataclass
class Observed:
    """What was seen of a server during an attack, or without one.

    Attributes:
        health_failures: reasons of the checks that failed, of those on a new connection and on a kept one.
        health_checks: how many there were.
        latencies_s: of a well-behaved client's calls, from when they were due.
        call_failures: statuses of its calls that failed.
        scrapes_failed: readings of the metrics that failed.
        peak_bytes: the most memory.
        capped: whether it took so much that the attack was ended for the machine's sake.
        ended: whether the server's process ended.
    """

    health_failures: Counter[str] = field(default_factory=Counter)
    health_checks: int = 0
    latencies_s: list[float] = field(default_factory=list)
    call_failures: Counter[str] = field(default_factory=Counter)
    scrapes_failed: int = 0
    peak_bytes: int = 0
    capped: bool = False
    ended: bool = False

    @property
    def p99_s(self) -> float:
        """Return the latency below which 99 of 100 calls stayed; nan where there was none."""
        return float(np.percentile(self.latencies_s, 99)) if self.latencies_s else float("nan")


class Observer:
    """Watches a server from beside: its memory, its health once a second, and a client 20 times a second."""

    def __init__(self, subject: Subject, cap_bytes: int, seen: Observed) -> None:
        self.seen = seen
        self._subject = subject
        self._cap_bytes = cap_bytes
        self._stop = threading.Event()
        self.over = threading.Event()
        tasks = (self._check_health, self._call, self._scrape, self._weigh)
        self._threads = [threading.Thread(target=task) for task in tasks]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Observed:
        """End, and give what was seen."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.seen

    def _check_health(self) -> None:
        with channel(self._subject.target.grpc) as kept:
            while not self._stop.wait(_HEALTH_EVERY_S):
                self._check(kept, "kept")
                with channel(self._subject.target.grpc) as fresh:
                    self._check(fresh, "new")

    def _check(self, one: grpc.Channel, name: str) -> None:
        self.seen.health_checks += 1
        try:
            answer = ask(one, CHECK, b"", _HEALTH_DEADLINE_S)
        except grpc.RpcError as error:
            self.seen.health_failures[f"{name}: {error.code().name}"] += 1
            return
        status = health_pb2.HealthCheckResponse.FromString(answer).status
        if status != health_pb2.HealthCheckResponse.SERVING:
            self.seen.health_failures[f"{name}: not serving"] += 1

    def _call(self) -> None:
        body = black_digit()
        with channel(self._subject.target.grpc) as one:
            due_s = time.monotonic()
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                try:
                    ask(one, CLASSIFY, body, _CALL_DEADLINE_S)
                except grpc.RpcError as error:
                    self.seen.call_failures[error.code().name] += 1
                self.seen.latencies_s.append(time.monotonic() - due_s)
                due_s += 1 / _CALLS_PER_S

    def _scrape(self) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._stop.wait(_HEALTH_EVERY_S):
            try:
                with direct.open(f"http://{self._subject.target.metrics}/metrics", timeout=5) as page:
                    page.read()
            except OSError:
                self.seen.scrapes_failed += 1

    def _weigh(self) -> None:
        while not self._stop.wait(_SAMPLE_EVERY_S):
            try:
                now_bytes = self._subject.memory_bytes()
            except BenchError:
                now_bytes = 0
            self.seen.peak_bytes = max(self.seen.peak_bytes, now_bytes)
            self.seen.capped |= now_bytes > self._cap_bytes
            self.seen.ended |= self._subject.process.poll() is not None
            if self.seen.capped or self.seen.ended:
                self.over.set()


def _memory(pid: int) -> dict[str, int]:
    """Read what a process holds, by kind, in bytes; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {kind: int(value.split()[0]) * _KILOBYTE for kind, value in pairs}


def run_apart(arguments: Sequence[str], cores: set[int] | None) -> "subprocess.Popen[bytes]":
    """Run a module in a process of its own, on some cores.

    It stands for other machines, so the server comes first where both want the same core.
    """
    process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL)  # noqa: S603
    os.setpriority(os.PRIO_PROCESS, process.pid, _ATTACKERS_NICE)
    _confine(process.pid, cores)
    return process


def _confine(pid: int, cores: set[int] | None) -> None:
    """Keep a process that has just begun, and the threads that it will have, to some cores."""
    if cores:
        os.sched_setaffinity(pid, cores)
