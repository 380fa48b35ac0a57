"""What the metrics say of models themselves: their states, and what loading them came to."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from modelzoo.v1 import classifier_pb2

_NAMESPACE = "modelzoo"
STATES = tuple(  # in lower case: ``ready``
    name.removeprefix("MODEL_STATE_").lower()
    for name, number in classifier_pb2.ModelState.items()
    if number != classifier_pb2.MODEL_STATE_UNSPECIFIED
)


class ModelGauges:
    """Series of models and of their versions, on a registry that is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(name, text, labels, namespace=_NAMESPACE, registry=registry)

        self._state = gauge(
            "model_state",
            "1 for the state that the model is in, 0 for the others.",
            ["model", "version", "state"],
        )
        self._memory = gauge(
            "model_memory_bytes",
            "Memory that loading and warming up the model took, measured.",
            ["model", "version", "device"],
        )
        self._load = gauge(
            "model_load_seconds", "Time that loading, warming up and checking took.", ["model", "version"]
        )
        self._captured = gauge(
            "model_captured",
            "1 where the model's batches replay captured CUDA graphs, else 0.",
            ["model", "version"],
        )
        self._load_failures = Counter(
            "model_load_failures_total",
            "Loads of a version that ended with FAILED.",
            ["model"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._fallback = gauge(
            "model_fallback",
            "1 where the model serves an older version because a newer one could not be loaded, else 0.",
            ["model"],
        )

    def add(self, model: str) -> None:
        """Begin the series of a model that are there whatever its state."""
        self._load_failures.labels(model)
        self._fallback.labels(model)

    def set_state(self, model: str, version: int, state: str) -> None:
        """Record the state of a model: one of `STATES`."""
        for candidate in STATES:
            self._state.labels(model, str(version), candidate).set(candidate == state)

    def set_loaded(self, model: str, version: int, seconds: float, memory_bytes: Mapping[str, int]) -> None:
        """Record what loading cost; ``memory_bytes`` by device, the host being ``cpu``."""
        self._load.labels(model, str(version)).set(seconds)
        for device, taken_bytes in memory_bytes.items():
            self._memory.labels(model, str(version), device).set(taken_bytes)

    def set_captured(self, model: str, version: int, *, captured: bool) -> None:
        """Record whether a model runs from captured graphs."""
        self._captured.labels(model, str(version)).set(captured)

    def load_failed(self, model: str) -> None:
        """Count a version that could not be loaded."""
        self._load_failures.labels(model).inc()

    def set_fallback(self, model: str, *, fell_back: bool) -> None:
        """Record whether a model serves an older version because a newer one failed."""
        self._fallback.labels(model).set(fell_back)

    def forget_version(self, model: str, version: int) -> None:
        """Drop the series of one version of a model."""
        for family in (self._state, self._memory, self._load, self._captured):
            family.remove_by_labels({"model": model, "version": str(version)})

    def forget(self, model: str) -> None:
        """Drop the series of a model that is gone."""
        for family in (
            self._state,
            self._memory,
            self._load,
            self._captured,
            self._load_failures,
            self._fallback,
        ):
            family.remove_by_labels({"model": model})
