"""What a load is answered, while it is answered."""

import time
from array import array
from collections import Counter
from collections.abc import Sequence
from operator import contains

import numpy as np

from bench.load.load import Load, Report
from bench.load.protocols import OK, UNREADABLE, Answer


class Recorder:
    """Counts answers and checks them; its clock starts when it is made.

    Args:
        load: what is asked.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._labels = load.answers()
        self._asked_s, self._latencies_s, self._lags_s = array("d"), array("d"), array("d")
        self._wrong = 0
        self._refused: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._batched = 0  # requests of a known batch
        self._batch_shares = 0.0  # of the batches that carried them
        self._began_s = time.monotonic()
        self._began_cpu_s = time.process_time()

    def now_s(self) -> float:
        """Return the time since the load began."""
        return time.monotonic() - self._began_s

    def count(self, number: int, asked_s: float, answer: Answer) -> None:
        """Count an answer that came just now.

        Args:
            asked_s: when it was to be sent, after the load began.
        """
        latency_s = self.now_s() - asked_s
        if answer.status == OK and self._right(number, answer.labels):
            self._asked_s.append(asked_s)
            self._latencies_s.append(latency_s)
            if answer.batch_size:
                self._batched += 1
                self._batch_shares += 1 / answer.batch_size
        elif answer.status in {OK, UNREADABLE}:
            self._wrong += 1
        else:
            self._refused[answer.status] += 1
            self._messages.setdefault(answer.status, answer.message)

    def lag(self, lag_s: float) -> None:
        """Note how much later than planned a request was sent."""
        self._lags_s.append(lag_s)

    def report(self, generator: str, measured_s: tuple[float, float], hung: int) -> Report:
        """Say what was answered."""
        return Report(
            generator=generator,
            asked_s=np.array(self._asked_s),
            latencies_s=np.array(self._latencies_s),
            lags_s=np.array(self._lags_s),
            images_per_request=self._load.images_per_request,
            measured_s=measured_s,
            wrong=self._wrong,
            refused=self._refused,
            messages=self._messages,
            hung=hung,
            client_cpu_s=time.process_time() - self._began_cpu_s,
            mean_batch=self._batched / self._batch_shares if self._batched else None,
        )

    def _right(self, number: int, labels: Sequence[int]) -> bool:
        right = self._labels[number % len(self._labels)]
        return len(labels) == len(right) and all(map(contains, right, labels))
