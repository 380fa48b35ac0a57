"""What is to be measured: the command line's options, checked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import BenchError

Protocol = Literal["modelzoo", "open-inference"]
Generator = Literal["auto", "h2load", "python"]

_RATE = re.compile(r"(\d+(?:\.\d+)?)(x?)")
_CAPACITY_S = 10.0  # of each round before an open loop, to know how much the server can do


@dataclass(frozen=True)
class Rate:
    """How fast the requests of an open loop arrive.

    Attributes:
        value: requests a second, or multiples of what the closed loop reached.
    """

    value: float
    of_capacity: bool

    def per_s(self, capacity_per_s: float) -> float:
        """Return the requests a second, where the closed loop reached ``capacity_per_s``."""
        return self.value * capacity_per_s if self.of_capacity else self.value

    def __str__(self) -> str:
        """Write it as it is parsed."""
        return f"{self.value:g}{'x' if self.of_capacity else ''}"


def rate_of(text: str) -> Rate:
    """Read ``120`` (requests a second) or ``0.7x`` (of capacity).

    Raises:
        BenchError: it is neither.
    """
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise BenchError(
            f"no rate: {text!r}; 120 is requests a second, 0.7x a share of what the server can do"
        )
    return Rate(float(match[1]), bool(match[2]))


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how.

    Attributes:
        repository: folder of the artifacts that both sides run.
        precision: of the server that is started; None leaves it to its settings.
        device: the same. Where the server at an address does not tell, that of the bare loop.
        config: TOML file with further settings of that server.
        address: of a running server; None starts one.
        protocol: that it speaks.
        pid: its process, for processor time and memory.
        outstanding: requests of the closed loop that wait at any time.
        images: in a request.
        streams: calls that stay open and carry the requests; 0 makes a call of every request.
        seconds: of every loop.
        rounds: how often each side is measured, by turns.
        generator: what asks.
        rate: of an open loop after each closed one; None for none.
        deadline_s: that the requests of the open loop have.
        starts: servers that are started to measure their first requests.
        frontends: of the server that is started; None leaves it to its settings.
        transport: of the same.
    """

    repository: Path
    precision: str | None = None
    device: str | None = None
    config: Path | None = None
    address: str | None = None
    protocol: Protocol = "modelzoo"
    pid: int | None = None
    outstanding: int = 16
    images: int = 1
    streams: int = 0
    seconds: float = 5.0
    rounds: int = 5
    generator: Generator = "auto"
    rate: Rate | None = None
    deadline_s: float | None = None
    starts: int = 0
    frontends: int | None = None
    transport: str | None = None

    def __post_init__(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            BenchError: says which.
        """
        contradictions = {
            "--starts starts servers, and --address names one that runs": self.starts and self.address,
            "--pid is the process of the server at --address": self.pid is not None and not self.address,
            "--config is for the server that is started, and --address names one that runs": self.config
            and self.address,
            "--frontends is for the server that is started, and --address names one that runs": self.frontends
            and self.address,
            "--protocol is that of the server at --address": self.protocol != "modelzoo" and not self.address,
            "--deadline-ms is for an open loop, which needs --rate": self.deadline_s and not self.rate,
            "h2load asks with calls of their own, not over streams": self.generator == "h2load"
            and self.streams,
            "h2load takes refusals for answers, which only a server that is started here tells apart; take "
            "--generator python with --address": self.generator == "h2load" and self.address,
        }
        for complaint, applies in contradictions.items():
            if applies:
                raise BenchError(complaint)

    @property
    def loop_s(self) -> float:
        """Return the length of the bare and the closed loop; an open loop they only lead to."""
        return self.seconds if self.rate is None else min(self.seconds, _CAPACITY_S)

    @property
    def warm_up_s(self) -> float:
        """Return the time of a closed loop that is not measured."""
        return min(1.0, self.loop_s / 5)
