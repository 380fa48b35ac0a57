"""`python -m bench.hostile`: attack a server by turns, hold what was seen against the bars, print a table.

The exit code is 1 where a bar is missed.
"""

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.hostile import fuzz, shutdown
from bench.hostile.attacks import ATTACKS, Attack, name_of
from bench.hostile.subject import Observed, Observer, Subject, run_apart, serving
from server.config import Settings

_MB = 1_000_000
_PEAK_BYTES = 2 * Settings.model_fields["max_bytes_in_flight"].default + 512 * _MB
_AFTER_BYTES = 200 * _MB
_SLOWER_RATIO = 10.0
_CAP_BYTES = 3_000 * _MB  # over idle: then the attack is ended, for the machine's sake
_UNLOADED_S = 5.0
_POLL_S = 0.1
_WIDTH = 160  # columns of the table in a pipe


@dataclass(frozen=True)
class Verdict:
    """What an attack did to the server.

    Attributes:
        peak_bytes: over idle.
        after_bytes: over idle, some time after the attack.
        p99_s: of the well-behaved client; the median of the rounds.
        misses: bars that were missed.
    """

    name: str
    seen: Observed
    peak_bytes: int
    after_bytes: int
    p99_s: float
    misses: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """How to attack.

    Attributes:
        seconds: that an attack lasts.
        rest_s: after which its memory must be back.
        rounds: of every attack.
        apart: whether the server has a core of its own, so that its latency can be judged.
    """

    repository: Path
    seconds: float
    rest_s: float
    rounds: int
    apart: bool

    @property
    def cores(self) -> tuple[set[int] | None, set[int] | None]:
        """Return the cores of the server, and those of the attackers."""
        cores = sorted(os.sched_getaffinity(0))
        return ({cores[0]}, set(cores[1:])) if self.apart and len(cores) > 1 else (None, None)


def assail(subject: Subject, plan: Plan, attack: Attack) -> Verdict:
    """Attack a server as often as planned, and judge.

    Raises:
        BenchError: the attack itself failed.
    """
    broken_before = subject.broken_lines
    idle_bytes = subject.memory_bytes()
    unloaded_p99_s = _observe(subject, _UNLOADED_S).p99_s if plan.apart else math.inf
    seen, p99s_s = Observed(), []
    for _ in range(plan.rounds):
        _observe(subject, plan.seconds, attack, plan.cores[1], idle_bytes, seen)
        p99s_s.append(seen.p99_s)
        seen.latencies_s.clear()
        if seen.ended:
            break
    answers = not seen.ended and subject.answers()
    after_bytes = _rest(subject, plan, idle_bytes) if answers else 0
    peak_bytes, p99_s = seen.peak_bytes - idle_bytes, median(p99s_s)
    broken = subject.broken_lines - broken_before
    missed = {
        "the server ended": seen.ended,
        "the server does not answer": not answers and not seen.ended,
        "peak memory": peak_bytes > _PEAK_BYTES and not seen.capped,
        "peak memory (attack cut short)": seen.capped,
        "memory afterwards": after_bytes > _AFTER_BYTES,
        f"health ({_reasons(seen.health_failures)})": bool(seen.health_failures),
        "metrics": bool(seen.scrapes_failed),
        f"calls of others ({_reasons(seen.call_failures)})": bool(seen.call_failures),
        f"p99 {p99_s / unloaded_p99_s:.0f} x unloaded": p99_s > _SLOWER_RATIO * unloaded_p99_s,
        f"{broken} lines of the log are not JSON": broken > 0,
    }
    misses = [name for name, is_missed in missed.items() if is_missed]
    return Verdict(name_of(attack), seen, peak_bytes, after_bytes, p99_s, misses)


def _reasons(failures: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in failures.items())


def _observe(
    subject: Subject,
    seconds: float,
    attack: Attack | None = None,
    cores: set[int] | None = None,
    idle_bytes: int = 0,
    seen: Observed | None = None,
) -> Observed:
    """Observe a server for some time, during an attack if there is one; add to what was seen before.

    Raises:
        BenchError: the attack itself failed.
    """
    observer = Observer(subject, idle_bytes + _CAP_BYTES, Observed() if seen is None else seen)
    if attack is None:
        observer.over.wait(seconds)
        return observer.stop()
    where = [subject.target.grpc, subject.target.metrics, str(seconds)]
    running = run_apart(["bench.hostile.attacks", attack.__name__, *where], cores)
    while running.poll() is None and not observer.over.wait(_POLL_S):
        pass  # its seconds count from when it has imported what it needs
    running.kill()
    if running.wait() > 0:
        observer.stop()
        raise BenchError(f"the attack {attack.__name__} failed by itself: exit code {running.returncode}")
    return observer.stop()


def _rest(subject: Subject, plan: Plan, idle_bytes: int) -> int:
    """Wait until memory is back, or the time for that is over; give what it is then, over idle."""
    ends_s = time.monotonic() + plan.rest_s
    while (over := subject.memory_bytes() - idle_bytes) > _AFTER_BYTES and time.monotonic() < ends_s:
        time.sleep(0.2)
    return over


def table(verdicts: Sequence[Verdict]) -> Table:
    """Lay verdicts out, a row each."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("attack", no_wrap=True)
    for column in ("peak MB", "after MB", "health failed", "p99 ms"):
        shown.add_column(column, justify="right")
    shown.add_column("missed")
    for one in verdicts:
        failed = sum(one.seen.health_failures.values())
        shown.add_row(
            one.name,
            f"{one.peak_bytes / _MB:,.0f}",
            f"{one.after_bytes / _MB:,.0f}",
            f"{failed} of {one.seen.health_checks}",
            "-" if math.isnan(one.p99_s) else f"{1e3 * one.p99_s:,.0f}",
            ", ".join(one.misses) or "-",
        )
    return shown


def main() -> int:
    """Run what the arguments name; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help="names of attacks; all of them")
    parser.add_argument("--repository", type=Path, default=Path("models"), help="with the digits models")
    parser.add_argument("--seconds", type=float, default=12.0, help="that an attack lasts")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds until its memory must be back")
    parser.add_argument("--rounds", type=int, default=1, help="of every attack; the median p99 counts")
    parser.add_argument(
        "--apart", action="store_true", help="the server on one core, attackers on the others"
    )
    parser.add_argument("--frontends", default="0", help="of the server")
    parser.add_argument("--fuzz", type=int, default=fuzz.CALLS, help="mutated calls; 0 leaves them out")
    parser.add_argument("--no-stops", action="store_true", help="leave the tests of SIGTERM out")
    given = parser.parse_args()
    options = ("--frontends", given.frontends)
    plan = Plan(given.repository, given.seconds, given.rest, given.rounds, given.apart)
    chosen = [attack for attack in ATTACKS if not given.attacks or attack.__name__ in given.attacks]
    console, failed = Console(width=None if sys.stdout.isatty() else _WIDTH), False
    verdicts = []
    for attack in chosen:
        with serving(plan.repository, *options, cores=plan.cores[0]) as subject:
            subject.answers()  # the first call takes memory for good
            verdicts.append(assail(subject, plan, attack))
        print(f"{verdicts[-1].name}: {', '.join(verdicts[-1].misses) or 'passed'}", file=sys.stderr)
        failed |= bool(verdicts[-1].misses)
    console.print(table(verdicts))
    if given.fuzz:
        try:
            with serving(given.repository, *options) as subject:
                closed = fuzz.run(subject, calls=given.fuzz)
            console.print(f"{given.fuzz} mutated calls: the server answers; it closed {closed} connections")
        except BenchError as error:
            console.print(f"mutated calls: {error}")
            failed = True
    for state in () if given.no_stops else shutdown.STATES:
        try:
            count = shutdown.lost(given.repository, state)
            console.print(f"SIGTERM, {state}: {count} of {shutdown.REQUESTS} accepted requests lost")
            failed |= count > 0
        except BenchError as error:
            console.print(f"SIGTERM, {state}: {error}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
