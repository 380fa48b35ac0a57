"""The models in a front end, as the engine sends them.

The engine frees a model that has served only once no request holds it in any front end: each says so when its
last such request has ended (`released`).
"""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

from artifact import layout
from modelzoo.v1 import frontend_pb2
from server.errors import ModelZooError
from server.frontends.engine_client import EngineChannel, EngineClient
from server.models.model import Model, State
from server.models.registry import Models
from server.observability.metrics import Metrics

_REFRESH_S = 2.0  # above the engine's own limit; then the models are listed as they were


class Replica(Models):
    """Holds the models that requests are answered with; the event loop alone touches it.

    Args:
        max_queue_size: of every model.
    """

    def __init__(
        self, engine: EngineClient, channel: EngineChannel, metrics: Metrics, max_queue_size: int
    ) -> None:
        self._models: dict[str, Model] = {}
        self._serials: dict[str, int] = {}  # of the models that are held, by name
        self._engine = engine
        self._channel = channel
        self._metrics = metrics
        self._max_queue_size = max_queue_size
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, sent: frontend_pb2.SentModel) -> None:
        """Hold a model as the engine sent it, in the place of one of its name."""
        name = sent.status.name
        before = self._models.get(name)
        served = before is not None and before.is_ready
        if before is not None and self._serials[name] == sent.serial:
            model = before
            model.status.CopyFrom(sent.status)
        else:
            model = Model(
                layout.Entry(name, sent.status.version, Path()),  # its files are the engine's
                sent.status,
                self._metrics.for_requests(name),
                max_queue_size=self._max_queue_size,
            )
        if sent.HasField("manifest"):
            model.manifest = sent.manifest
            model.labels = tuple(sent.labels)
            model.submit = partial(self._engine.submit, (sent.serial, sent.manifest.label_count))
        model.enter(sent.status.state)
        if before is not None and served and not (model is before and model.is_ready):
            self._release(self._serials[name], before)
        self._models[name] = model
        self._serials[name] = sent.serial

    async def refresh(self) -> None:
        """Have the engine look at the disk; see `Models.refresh`."""
        with suppress(TimeoutError, ModelZooError):
            async with asyncio.timeout(_REFRESH_S):
                await self._engine.refresh()

    def forget(self, name: str) -> None:
        """Hold a model no more, and drop its series: it is gone."""
        model = self._models.pop(name, None)
        if model is None:
            return
        serial = self._serials.pop(name)
        if model.is_ready:
            model.enter(State.MODEL_STATE_UNLOADED)
            self._release(serial, model)
        self._metrics.forget_model(name)

    def drain(self) -> None:
        """Take no more requests, for any model: the engine has ended."""
        for model in self._models.values():
            model.enter(State.MODEL_STATE_DRAINING)

    def statistics(self) -> list[frontend_pb2.RequestStatistics]:
        """Return what the requests for each model came to."""
        return [
            frontend_pb2.RequestStatistics(
                serial=self._serials[name], statistics=model.statistics.message().inference_stats
            )
            for name, model in self._models.items()
        ]

    def _release(self, serial: int, model: Model) -> None:
        """Report to the engine once no request holds a model any more."""

        async def release() -> None:
            await model.holders.none.wait()
            self._channel.pending.released.append(serial)

        task = asyncio.get_running_loop().create_task(release())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
