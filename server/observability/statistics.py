"""What one model has done since it was loaded, as the Open Inference Protocol tells it."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from modelzoo.v1 import open_inference_pb2


@dataclass
class Total:
    """How often something happened, and how long it took in all."""

    count: int = 0
    total_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """Count one more."""
        self.count += 1
        self.total_s += duration_s

    def message(self) -> open_inference_pb2.StatisticDuration:
        """Write it as the protocol does."""
        return open_inference_pb2.StatisticDuration(count=self.count, ns=round(self.total_s * 1e9))


@dataclass
class Statistics:
    """Counts the requests and the batches of one model; the event loop alone touches it.

    Attributes:
        failed: requests that got no answer, whatever the reason.
    """

    failed: Total = field(default_factory=Total)
    _answered: Total = field(default_factory=Total)
    _decode: Total = field(default_factory=Total)
    _queue: Total = field(default_factory=Total)
    _infer: Total = field(default_factory=Total)
    _encode: Total = field(default_factory=Total)
    _batches: dict[int, Total] = field(default_factory=lambda: defaultdict(Total))  # by size
    _last_ms: int = 0

    def answered(
        self, total_s: float, *, decode_s: float, queue_s: float, infer_s: float, encode_s: float
    ) -> None:
        """Count a request that was answered, and where its time went."""
        self._answered.add(total_s)
        self._decode.add(decode_s)
        self._queue.add(queue_s)
        self._infer.add(infer_s)
        self._encode.add(encode_s)

    def ran(self, batch_size: int, infer_s: float) -> None:
        """Count a batch that the device answered."""
        self._batches[batch_size].add(infer_s)
        self._last_ms = time.time_ns() // 1_000_000

    def message(self) -> open_inference_pb2.ModelStatistics:
        """Write it as the protocol does, without what the model is called and takes."""
        return open_inference_pb2.ModelStatistics(
            last_inference=self._last_ms,
            inference_count=sum(size * total.count for size, total in self._batches.items()),
            execution_count=sum(total.count for total in self._batches.values()),
            inference_stats=open_inference_pb2.InferStatistics(
                success=self._answered.message(),
                fail=self.failed.message(),
                queue=self._queue.message(),
                compute_input=self._decode.message(),
                compute_infer=self._infer.message(),
                compute_output=self._encode.message(),
            ),
            batch_stats=[
                open_inference_pb2.InferBatchStatistics(batch_size=size, compute_infer=total.message())
                for size, total in sorted(self._batches.items())
            ],
        )
