"""What a load asks, and what it was answered; `closed_loop`, `open_loop` and others run it."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench.load.protocols import WireProtocol
from client.client import Picture

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        protocol: the protocol, and in it the model.
        pictures: asked in turn.
        labels: for every picture the indices of the labels that are right; anything else is a wrong answer.
        images_per_request: pictures in one request.
        outstanding: requests of a closed loop that wait for their answers at any time.
        connections: at most; never more than streams, or than the requests of a closed loop.
        streams: calls that stay open and carry the requests; 0 makes a call of every request.
        seconds: how long to ask, after ``warm_up_s``.
        requests: how many to ask at most; None for as many as there is time for.
        deadline_s: how long an answer may take; None for as long as it wants.
        patience_s: time for the last answers, deadlines past; what has no answer or status then hangs.
    """

    protocol: WireProtocol
    pictures: Sequence[Picture]
    labels: Sequence[Set[int]]
    images_per_request: int = 1
    outstanding: int = 16
    connections: int = 4
    streams: int = 0
    seconds: float = 5.0
    warm_up_s: float = 0.0
    requests: int | None = None
    deadline_s: float | None = None
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse a load that asks nothing.

        Raises:
            ValueError: there is no client, or no picture or not as many labels.
        """
        if min(self.images_per_request, self.outstanding, self.connections, len(self.pictures)) < 1:
            raise ValueError(
                f"{self.outstanding} requests of {self.images_per_request} images over {self.connections} "
                f"connections with {len(self.pictures)} pictures ask nothing"
            )
        if len(self.labels) != len(self.pictures):
            raise ValueError(f"{len(self.labels)} sets of labels for {len(self.pictures)} pictures")

    def bodies(self) -> list[bytes]:
        """Build every request that is asked in turn.

        Raises:
            TypeError: a picture that the protocol cannot send.
        """
        return [self.protocol.encode([self.pictures[index] for index in turn]) for turn in self._turns()]

    def answers(self) -> list[list[Set[int]]]:
        """Return the right labels of the images of every such request."""
        return [[self.labels[index] for index in turn] for turn in self._turns()]

    def _turns(self) -> list[list[int]]:
        count = len(self.pictures)
        return [[(turn + seat) % count for seat in range(self.images_per_request)] for turn in range(count)]


@dataclass(frozen=True)
class Report:
    """What was answered.

    Attributes:
        generator: what asked.
        asked_s: when each request with a right answer was asked, or was to be asked, in seconds after the
            load began; in the order of the answers.
        latencies_s: how long these took.
        lags_s: of an open loop, how much later than planned each request was sent.
        images_per_request: pictures in one request.
        measured_s: begin and end of the time that is measured, after the load began.
        wrong: answered requests with a label that is not right, or with an answer that cannot be read.
        refused: requests that ended with a status, by its name.
        messages: the server's message to the first of these, by the same names.
        hung: requests that had neither answer nor status when the load gave up on them.
        client_cpu_s: processor time of the process that asked, for all requests.
        mean_batch: images that ran together, as the answers say; None where they do not.
    """

    generator: str
    asked_s: Floats
    latencies_s: Floats
    images_per_request: int
    measured_s: tuple[float, float]
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    hung: int = 0
    client_cpu_s: float = 0.0
    mean_batch: float | None = None
    lags_s: Floats = field(default_factory=lambda: np.zeros(0))
    messages: Mapping[str, str] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Count the requests with a right answer, measured or not."""
        return len(self.latencies_s)

    @property
    def errors(self) -> int:
        """Count the requests without a right answer."""
        return self.wrong + self.refused.total() + self.hung

    @property
    def measured_latencies_s(self) -> Floats:
        """Return the latencies of what was answered in the measured time."""
        ended_s = self.asked_s + self.latencies_s
        begin_s, end_s = self.measured_s
        return self.latencies_s[(ended_s >= begin_s) & (ended_s <= end_s)]

    def images_per_s(self) -> float:
        """Return the images that were answered in a second of the measured time."""
        ended_s = np.sort(self.asked_s + self.latencies_s)
        begin_s, end_s = self.measured_s
        kept_s = ended_s[(ended_s >= begin_s) & (ended_s <= end_s)]
        return _per_s(kept_s, end_s - begin_s) * self.images_per_request


def percentile_s(latencies_s: Floats, percent: float) -> float:
    """Return the latency that so many percent did not exceed; nearest rank.

    Raises:
        ValueError: there is none.
    """
    if not len(latencies_s):
        raise ValueError("no request was answered")
    rank = max(0, int(np.ceil(len(latencies_s) * percent / 100)) - 1)
    return float(np.partition(latencies_s, rank)[rank])


def _per_s(ended_s: Floats, window_s: float) -> float:
    """Count answers per second between two pauses, one near each end.

    Answers come batch by batch. A window that begins or ends inside a batch would count a part of it,
    which for slow networks is a good part of all answers.

    Args:
        ended_s: ascending.
        window_s: the time they came in.
    """
    if len(ended_s) < 8:  # no pause to speak of
        return len(ended_s) / window_s
    gaps_s = np.diff(ended_s)
    middles_s = ended_s[:-1] + gaps_s / 2
    edge_s = (ended_s[-1] - ended_s[0]) / 4
    first = int(np.argmax(gaps_s[middles_s <= max(ended_s[0] + edge_s, middles_s[0])]))
    late = int(np.searchsorted(middles_s, min(ended_s[-1] - edge_s, middles_s[-1])))
    last = late + int(np.argmax(gaps_s[late:]))
    if middles_s[last] <= middles_s[first]:
        return len(ended_s) / window_s
    return float((last - first) / (middles_s[last] - middles_s[first]))
