"""The account of a classification request, whichever service it came by: its model, its time, its end."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from server.edge import why_cancelled
from server.errors import ModelNotFoundError, ModelZooError
from server.metrics import UNKNOWN_MODEL, Metrics
from server.model import ReadyModel
from server.repository import Repository
from server.submissions import Answer


@dataclass
class Account:
    """One request.

    Attributes:
        model: answers it.
        images: of the request, once it is answered.
    """

    model: ReadyModel
    images: int = 0
    _decode_s: float = 0.0
    _queue_s: float = 0.0
    _infer_s: float = 0.0
    _inferred_s: float = 0.0

    def decoded(self, duration_s: float) -> None:
        """Note how long decoding took; 0 where only pixels came."""
        self._decode_s = duration_s
        self.model.metrics.decode.observe(duration_s)

    def inferred(self, answer: Answer) -> None:
        """Note what the batcher gave."""
        self.images = len(answer.probabilities)
        self._queue_s, self._infer_s = answer.queue_s, answer.infer_s
        self._inferred_s = time.monotonic()

    def close(self, started_s: float) -> None:
        """Count it as answered."""
        now_s = time.monotonic()
        self.model.metrics.duration.observe(now_s - started_s)
        self.model.metrics.images.inc(self.images)
        self.model.statistics.answered(
            now_s - started_s,
            decode_s=self._decode_s,
            queue_s=self._queue_s,
            infer_s=self._infer_s,
            encode_s=now_s - self._inferred_s,
        )


class Accounts:
    """Opens an account for every request."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics

    @contextmanager
    def open(self, name: str, version: int | None, deadline_s: float | None) -> Iterator[Account]:
        """Find the model that answers a request, hold it until the request has ended, and count that.

        Raises:
            ModelNotFoundError: there is none of that name or version.
            ModelNotReadyError: it does not serve.
        """
        started_s = time.monotonic()
        code = grpc.StatusCode.INTERNAL  # unless it ends otherwise below
        model = None
        try:
            model = self._repository.ready(name, version)
            model.in_flight.enter(0)
            account = Account(model)
            yield account
        except ModelNotFoundError as error:
            code, name = error.status, UNKNOWN_MODEL
            raise
        except ModelZooError as error:
            code = error.status
            raise
        except asyncio.CancelledError:
            code = why_cancelled(deadline_s)
            raise
        else:
            code = grpc.StatusCode.OK
            account.close(started_s)
        finally:
            self._metrics.request_ended(name, code)
            if model is not None:
                if code is not grpc.StatusCode.OK:
                    model.statistics.failed.add(time.monotonic() - started_s)
                model.in_flight.leave(0)
