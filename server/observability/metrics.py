"""The metrics of the service, declared once, on a registry that is given.

Those of what is alive stand in `vital_metrics`, of the models in `model_gauges`, of front ends in
`frontends/metrics`, of a GPU's memory in `gpu_memory`.

Series are bound when a method is registered, a model is found or it becomes READY, and are there at zero
from then on: `rate()` sees the first error, and "idle" differs from "absent".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import grpc
from prometheus_client import CollectorRegistry, Gauge

from server.observability.model_gauges import ModelGauges
from server.observability.registry import LoopCounter, LoopCounters, LoopHistogram, LoopHistograms
from server.observability.statistics import Statistics

NAMESPACE = "modelzoo"
UNKNOWN_MODEL = "_unknown"  # one series for all names that clients make up

# 0.25 ms to 16 s: from LeNet on a GPU to VGG-19 in a full queue on two CPU cores.
DURATION_BUCKETS_S = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

RpcKind = Literal["unary", "server_stream", "bidi_stream"]
Unanswered = Literal["queue_full", "late", "expired", "cancelled", "failed"]
# What a peer ran into that kept a call, or a connection, waiting or made it hold too much.
PeerLimit = Literal["idle", "calls", "bytes", "connections"]
PEER_LIMITS: tuple[PeerLimit, ...] = ("idle", "calls", "bytes", "connections")
UNANSWERED: tuple[Unanswered, ...] = ("queue_full", "late", "expired", "cancelled", "failed")
# How a classification for a known model can end; an unknown model's name is folded into one series.
CLASSIFY_CODES = (
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
)


class WatchedCosts(Protocol):
    """Predictions that are read at every scrape."""

    sizes: tuple[int, ...]

    def batch_s(self, images: int, /) -> float:
        """Predict the time of one batch."""


class WatchedQueue(Protocol):
    """A queue: its length, and what its batches take, are read at every scrape."""

    max_queue_size: int

    @property
    def profile(self) -> WatchedCosts:
        """Return the predictions for the model's batches."""

    @property
    def waiting(self) -> int:
        """Return the number of waiting images."""


@dataclass(frozen=True)
class BatcherMetrics:
    """What the batcher counts, bound to one model."""

    batch_size: LoopHistogram
    queue: LoopHistogram
    infer: LoopHistogram
    unanswered: Mapping[Unanswered, LoopCounter]
    statistics: Statistics


@dataclass(frozen=True)
class RequestMetrics:
    """What requests count, bound to one model."""

    duration: LoopHistogram
    decode: LoopHistogram
    images: LoopCounter
    answered: LoopCounter


@dataclass(frozen=True)
class RpcMetrics:
    """What handlers count, bound to one method; named as the stock gRPC dashboards expect."""

    started: LoopCounter
    handled: Mapping[grpc.StatusCode, LoopCounter]
    handling: LoopHistogram
    received: LoopCounter
    sent: LoopCounter


class Metrics:
    """All metrics of one server.

    Args:
        registry: where they are registered; a server of its own has a registry of its own.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._models: set[str] = {UNKNOWN_MODEL}  # those that have series

        def counter(name: str, text: str, labels: list[str]) -> LoopCounters:
            return LoopCounters(f"{NAMESPACE}_{name}", text, labels, registry)

        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(name, text, labels, namespace=NAMESPACE, registry=registry)

        def seconds(name: str, text: str, labels: list[str]) -> LoopHistograms:
            return LoopHistograms(name, text, labels, registry, DURATION_BUCKETS_S)

        self._rpc_started = LoopCounters(
            "grpc_server_started_total",
            "RPCs that began.",
            ["grpc_type", "grpc_service", "grpc_method"],
            registry=registry,
        )
        self._rpc_handled = LoopCounters(
            "grpc_server_handled_total",
            "RPCs that ended, by their status.",
            ["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
            registry=registry,
        )
        self._rpc_handling = seconds(
            "grpc_server_handling_seconds",
            "Time from the request's arrival to its answer.",
            ["grpc_type", "grpc_service", "grpc_method"],
        )
        self._rpc_received, self._rpc_sent = (
            LoopCounters(
                f"grpc_server_msg_{done}_total",
                f"Messages that were {done}: one a call, or many of a stream.",
                ["grpc_type", "grpc_service", "grpc_method"],
                registry=registry,
            )
            for done in ("received", "sent")
        )
        self._request_duration = seconds(
            f"{NAMESPACE}_request_duration_seconds",
            "Time from a classification request's arrival to its answer, successful ones only.",
            ["model"],
        )
        self._stage_duration = seconds(
            f"{NAMESPACE}_stage_duration_seconds",
            "Time in one stage: decode and queue once a request, infer once a batch.",
            ["model", "stage"],
        )
        self._requests = counter(
            "requests_total", "Classification requests that ended, by their status.", ["model", "code"]
        )
        self.request_ended(UNKNOWN_MODEL, grpc.StatusCode.NOT_FOUND, 0)
        self._images = counter("images_total", "Images that were answered.", ["model"])
        self._unanswered = counter(
            "unanswered_images_total",
            "Images that were refused or dropped after decoding, or that the device failed.",
            ["model", "reason"],
        )
        self._batch_size = LoopHistograms(
            f"{NAMESPACE}_batch_size_images", "Images that ran together.", ["model"], registry, BATCH_BUCKETS
        )
        self._batch_latency = gauge(
            "batch_latency_seconds",
            "Time that a batch of this size should take, as the batcher predicts it now.",
            ["model", "batch_size"],
        )
        self._queue_images = gauge("queue_images", "Images that wait for a batch.", ["model"])
        self._queue_limit = gauge("queue_limit_images", "Images that may wait before refusal.", ["model"])
        self._peer_limits = counter(
            "peer_limits_total",
            "Calls and connections that were ended although their peers did not: what they ran into.",
            ["limit"],
        )
        for limit in PEER_LIMITS:
            self._peer_limits.labels(limit)
        self.models = ModelGauges(registry)
        self._device = gauge(
            "device_info", "The device that serves, and the one that was asked for.", ["device", "requested"]
        )
        self._fallback = gauge(
            "device_fallback", "1 where the server runs on the CPU because CUDA did not work, else 0.", []
        )

    def for_method(self, kind: RpcKind, service: str, method: str) -> RpcMetrics:
        """Bind the metrics of a method, every status at zero."""
        labels = (kind, service, method)
        return RpcMetrics(
            started=self._rpc_started.labels(*labels),
            handled={code: self._rpc_handled.labels(*labels, _camel(code)) for code in grpc.StatusCode},
            handling=self._rpc_handling.labels(*labels),
            received=self._rpc_received.labels(*labels),
            sent=self._rpc_sent.labels(*labels),
        )

    def for_requests(self, model: str) -> RequestMetrics:
        """Bind what the classifier counts for a model."""
        self._models.add(model)
        for code in CLASSIFY_CODES:
            self.request_ended(model, code, 0)
        self.models.add(model)
        return RequestMetrics(
            duration=self._request_duration.labels(model),
            decode=self._stage_duration.labels(model, "decode"),
            images=self._images.labels(model),
            answered=self._requests.labels(model, grpc.StatusCode.OK.name),
        )

    def request_ended(self, model: str, code: grpc.StatusCode, count: int = 1) -> None:
        """Count a classification request; one for a model that is gone meanwhile as `UNKNOWN_MODEL`'s."""
        known = model if model in self._models else UNKNOWN_MODEL
        self._requests.labels(known, code.name).inc(count)

    def peer_limited(self, limit: PeerLimit) -> None:
        """Count a call or a connection that was ended because of what its peer did, or did not do."""
        self._peer_limits.labels(limit).inc()

    def for_batcher(self, model: str, statistics: Statistics | None = None) -> BatcherMetrics:
        """Bind what the batcher counts for a model."""
        return BatcherMetrics(
            batch_size=self._batch_size.labels(model),
            queue=self._stage_duration.labels(model, "queue"),
            infer=self._stage_duration.labels(model, "infer"),
            unanswered={reason: self._unanswered.labels(model, reason) for reason in UNANSWERED},
            statistics=statistics or Statistics(),
        )

    def watch_queue(self, model: str, queue: WatchedQueue) -> None:
        """Read a model's queue at every scrape."""
        self.forget_queue(model)
        self._queue_images.labels(model).set_function(lambda: queue.waiting)
        self._queue_limit.labels(model).set(queue.max_queue_size)
        for size in queue.profile.sizes:
            self._batch_latency.labels(model, str(size)).set_function(partial(queue.profile.batch_s, size))

    def forget_queue(self, model: str) -> None:
        """Read a model's queue no more."""
        self._queue_images.labels(model).set_function(lambda: 0)
        self._batch_latency.remove_by_labels({"model": model})

    def forget_model(self, model: str) -> None:
        """Drop every series of a model that is gone; requests that still hold some bring none back."""
        self._models.discard(model)
        for family in (
            self._request_duration,
            self._stage_duration,
            self._requests,
            self._images,
            self._unanswered,
            self._batch_size,
            self._batch_latency,
            self._queue_images,
            self._queue_limit,
        ):
            family.remove_by_labels({"model": model})
        self.models.forget(model)

    def set_device(self, device: str, requested: str, *, fell_back: bool) -> None:
        """Record which device serves."""
        self._device.labels(device, requested).set(1)
        self._fallback.set(fell_back)


def _camel(code: grpc.StatusCode) -> str:
    """Write a status as the stock dashboards do: ``InvalidArgument``, ``OK``."""
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")
