"""Tracking of a classification request, whichever service it came by: its model, its time, its end."""

import asyncio
import time
from types import TracebackType

import grpc

from server.errors import ModelNotFoundError, ModelZooError
from server.inference import Answer
from server.models.model import ReadyModel
from server.models.registry import Models
from server.observability.metrics import UNKNOWN_MODEL, Metrics
from server.rpc.handlers import why_cancelled


class TrackedRequest:
    """One request, as a context: it holds its model, and how it leaves is how it is counted.

    Attributes:
        model: answers it.
    """

    __slots__ = (
        *("model", "_metrics", "_deadline_s", "_started_s"),
        *("_decode_s", "_queue_s", "_infer_s", "_inferred_s", "_images"),
    )

    def __init__(
        self, model: ReadyModel, metrics: Metrics, deadline_s: float | None, started_s: float
    ) -> None:
        self.model = model
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._started_s = started_s
        self._decode_s = self._queue_s = self._infer_s = self._inferred_s = 0.0
        self._images = 0

    def decoded(self, duration_s: float) -> None:
        """Note how long decoding took; 0 where only pixels came."""
        self._decode_s = duration_s
        self.model.metrics.decode.observe(duration_s)

    def inferred(self, answer: Answer) -> None:
        """Note what the batcher gave."""
        self._images = len(answer.probabilities)
        self._queue_s, self._infer_s = answer.queue_s, answer.infer_s
        self._inferred_s = time.monotonic()

    def __enter__(self) -> "TrackedRequest":
        """Hold the model."""
        self.model.holders.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the model go, and count."""
        del kind, trace
        model, now_s = self.model, time.monotonic()
        model.holders.release()  # first: whatever becomes of the counting, nothing waits for this request
        if error is None:
            model.metrics.answered.inc()
            model.metrics.images.inc(self._images)
            model.metrics.duration.observe(now_s - self._started_s)
            model.statistics.answered(
                now_s - self._started_s,
                decode_s=self._decode_s,
                queue_s=self._queue_s,
                infer_s=self._infer_s,
                encode_s=now_s - self._inferred_s,
            )
        else:
            code = grpc.StatusCode.INTERNAL
            if isinstance(error, ModelZooError):
                code = error.status
            elif isinstance(error, asyncio.CancelledError):
                code = why_cancelled(self._deadline_s)
            self._metrics.request_ended(model.status.name, code)
            model.statistics.failed.add(now_s - self._started_s)


class RequestTracker:
    """Tracks every request."""

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics

    def open(self, name: str, version: int | None, deadline_s: float | None) -> TrackedRequest:
        """Find the model that answers a request; where none does, the request is counted at once.

        Raises:
            ModelNotFoundError: there is none of that name or version.
            ModelNotReadyError: it does not serve.
        """
        started_s = time.monotonic()
        try:
            return TrackedRequest(self._models.ready(name, version), self._metrics, deadline_s, started_s)
        except ModelZooError as error:
            known = UNKNOWN_MODEL if isinstance(error, ModelNotFoundError) else name
            self._metrics.request_ended(known, error.status)
            raise
