"""Unary closed loops with `h2load`, of Debian's package nghttp2-client, which costs far less than Python.

It counts HTTP statuses, which are 200 for gRPC's refusals too, and looks into no answer. The caller checks
answers in a load of their own, and refusals by the server's own count.
"""

import resource
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.errors import BenchError
from bench.load.load import Load, Report

GENERATOR = "h2load"
_GRACE_S = 60.0


def installed() -> bool:
    """Return whether there is one."""
    return shutil.which(GENERATOR) is not None


def closed_loop(load: Load, address: str) -> Report:
    """Run a load to its end; it sends its first request only, as often as there is time for.

    Raises:
        BenchError: h2load failed.
    """
    body = load.bodies()[0]
    # Each of its connections has as many requests outstanding as the others.
    connections = max(count for count in range(1, load.connections + 1) if load.outstanding % count == 0)
    with TemporaryDirectory(prefix="modelzoo-bench-") as folder:
        data, log = Path(folder) / "body", Path(folder) / "log"
        data.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)  # not compressed, its length
        command = [GENERATOR, f"--clients={connections}", "--threads=1"]
        command += [f"--max-concurrent-streams={load.outstanding // connections}"]
        command += [f"--duration={round((load.warm_up_s + load.seconds) * 1e3)}ms"]
        command += [f"--data={data}", f"--log-file={log}"]
        command += ["--header=content-type: application/grpc", "--header=te: trailers"]
        command += [f"http://{address}{load.protocol.method}"]
        before_s = _children_cpu_s()
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and no argument from outside
                command, capture_output=True, text=True, timeout=load.seconds + _GRACE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"h2load: {error}") from error
        cpu_s = _children_cpu_s() - before_s
        if done.returncode or not log.exists():
            raise BenchError(f"h2load: {(done.stderr or done.stdout).strip()}")
        return _report(load, log.read_text("ascii"), cpu_s)


def _report(load: Load, log: str, cpu_s: float) -> Report:
    """Read its log: begin in microseconds, HTTP status, microseconds until the end, a line a request."""
    rows = np.array([line.split()[:3] for line in log.splitlines()], np.int64).reshape(-1, 3)
    if not len(rows):
        raise BenchError("h2load was answered nothing")
    answered = rows[rows[:, 1] == 200]
    refused = Counter(
        f"HTTP {status}" if status > 0 else "failed" for status in rows[rows[:, 1] != 200, 1].tolist()
    )
    return Report(
        generator=GENERATOR,
        asked_s=(answered[:, 0] - rows[:, 0].min()) / 1e6,
        latencies_s=answered[:, 2] / 1e6,
        images_per_request=load.images_per_request,
        measured_s=(load.warm_up_s, load.warm_up_s + load.seconds),
        refused=refused,
        client_cpu_s=cpu_s,
    )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
