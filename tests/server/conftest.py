"""What the server's tests share: pictures, networks that can be held, and readings of the metrics."""

import contextlib
import io
import signal
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from artifact.pictures import Pixels
from export import pipeline
from export.data import datasets
from modelzoo.v1 import manifest_pb2
from server.batching.batcher import Batcher
from server.batching.lane import Lane
from server.batching.latency_profile import LatencyProfile
from server.batching.queues import ModelQueue
from server.config import Settings
from server.inference import Probabilities
from server.observability.metrics import Metrics
from server.runtime.device import Device
from server.runtime.network import Network, OnnxNetwork
from tests.conftest import Running
from tests.server import listening, progress
from tests.server.by_hand import ByHand, Clock, Echo

MODEL = "lenet5-digits"


class GatedNetwork:
    """A network behind a gate: while the gate is shut, a batch waits on the lane.

    The first runs, which prove the model, pass without asking.

    Args:
        order: gets the name whenever a batch has passed; networks of one server may share it.

    Attributes:
        gate: where a batch that comes now will wait; `shut` puts a new one.
        entered: counts the batches that reached the gate.
        batches: images of every batch that passed.
        failures: what the next batches end with, one each; None lets one pass unharmed.
        rows_missing: rows that every answer lacks.
    """

    def __init__(self, network: Network, name: str = MODEL, order: list[str] | None = None) -> None:
        self._network = network
        self._name = name
        self._order: list[str] = [] if order is None else order
        self._gates: list[threading.Event] = []
        self.gate = self._new_gate()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.failures: deque[BaseException | None] = deque()
        self.rows_missing = 0

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        gate = self.gate
        self.entered.release()
        assert gate.wait(60), "nobody opened the gate"
        self.batches.append(len(rows))
        self._order.append(self._name)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        answers = self._network.infer(rows)
        return answers[: len(answers) - self.rows_missing]

    def shut(self) -> threading.Event:
        """Hold what comes from now on, and forget what came; gives the new gate."""
        self.gate = self._new_gate()
        self.batches.clear()
        while self.entered.acquire(blocking=False):
            pass
        return self.gate

    def open_all(self) -> None:
        """Let everything go that any gate holds."""
        for gate in self._gates:
            gate.set()

    def _new_gate(self) -> threading.Event:
        self._gates.append(threading.Event())
        return self._gates[-1]


class Gates:
    """Opens gated networks and remembers them, by the model's name.

    Attributes:
        order: the names of the models whose batches passed.
        devices: what each network was opened on.
    """

    def __init__(self) -> None:
        self.networks: dict[str, GatedNetwork] = {}
        self.order: list[str] = []
        self.devices: dict[str, Device] = {}

    def __call__(
        self, path: Path, manifest: manifest_pb2.Manifest, device: Device, batch_sizes: Sequence[int]
    ) -> GatedNetwork:
        network = GatedNetwork(OnnxNetwork(path, manifest, device, batch_sizes), manifest.name, self.order)
        self.networks[manifest.name] = network
        self.devices[manifest.name] = device
        return network

    def __getitem__(self, name: str) -> GatedNetwork:
        return self.networks[name]


@pytest.fixture
def gates() -> Iterator[Gates]:
    """Give to `start_server(open_network=...)`; every gate is open again in the end."""
    gates = Gates()
    yield gates
    for network in gates.networks.values():
        network.open_all()


@dataclass
class Wired:
    """A batcher, its lane and one model's queue, wired as `app` does; to be made on an event loop."""

    max_batch_size: int = 4
    max_queue_size: int = 64
    lanes: int = 1
    max_queue_delay_s: float = 0.0
    clock: Callable[[], float] = field(default_factory=Clock)
    wake: threading.Condition = field(default_factory=threading.Condition)
    log_failure: Callable[[str, Exception], None] | None = None
    network: GatedNetwork = field(default_factory=lambda: GatedNetwork(Echo()))
    logged: list[tuple[str, Exception]] = field(default_factory=list)
    lane_failures: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        metrics = Metrics(CollectorRegistry())
        self._registry = metrics.registry
        self.batcher = Batcher(
            self.wake,
            self.log_failure or self._log,
            lanes=self.lanes,
            max_queue_delay_s=self.max_queue_delay_s,
            clock=self.clock,
        )
        # One size that takes next to no time: every batch is as large as it can be.
        profile = LatencyProfile(
            {self.max_batch_size: 1e-6}, padded=False, measured_s=self.clock(), side_by_side=self.lanes
        )
        self.queue = ModelQueue(
            MODEL, self.network, 2, profile, self.max_queue_size, metrics.for_batcher(MODEL)
        )
        metrics.watch_queue(MODEL, self.queue)
        self.batcher.add(self.queue)
        self.lane = Lane(
            self.wake,
            self.batcher,
            self.lanes,
            lambda error, goes_on: self.lane_failures.append((type(error).__name__, goes_on)),
        )

    def unanswered(self, reason: str) -> float | None:
        """Read how many images were not answered."""
        labels = {"model": MODEL, "reason": reason}
        return self._registry.get_sample_value("modelzoo_unanswered_images_total", labels)

    def waiting(self) -> float | None:
        """Read how many images wait."""
        return self._registry.get_sample_value("modelzoo_queue_images", {"model": MODEL})

    def _log(self, model: str, error: Exception) -> None:
        self.logged.append((model, error))


@pytest.fixture
def wire() -> Iterator[Callable[..., Wired]]:
    """Make `Wired`s; their lanes end with the test."""
    made: list[Wired] = []

    def wire(**options: object) -> Wired:
        made.append(Wired(**options))
        return made[-1]

    yield wire
    for wired in made:
        wired.network.open_all()
        assert wired.lane.stop(60), "the lane did not end"


@pytest.fixture(scope="session")
def by_hand() -> type[ByHand]:
    """Give the class: the test makes as many as it needs, each in a `with`."""
    return ByHand


Reading = Callable[..., float]


@pytest.fixture(scope="session")
def reading() -> Reading:
    """Read a series off a running server's metrics page; it must be there."""

    def reading(running, name: str, **labels: str) -> float:
        with urllib.request.urlopen(running.metrics_url) as response:
            page = response.read().decode()
        [value] = [
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return value

    return reading


@pytest.fixture(scope="session")
def waiting(reading: Reading) -> Reading:
    """Count the images in a model's queue, as the metrics show them."""

    def waiting(running, model: str = MODEL) -> float:
        return reading(running, "modelzoo_queue_images", model=model)

    return waiting


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Give `progress.wait_for`."""
    return progress.wait_for


@pytest.fixture(scope="session")
def digits(exported: dict[str, pipeline.Exported]) -> datasets.Split:
    """The held-out digits as the dataset has them, uint8 [N, 8, 8, 1]."""
    return datasets.load("digits", seed=0, cache=Path()).test


Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode a Pillow image or grey pixels [H, W, 1]."""

    def encode(picture: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> bytes:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture[:, :, 0])
        stream = io.BytesIO()
        image.save(stream, form, **options)
        return stream.getvalue()

    return encode


@pytest.fixture
def start_empty(tmp_path: Path, transport: str) -> Iterator[Callable[..., Running]]:
    """Starts servers without models, for what needs none; raises why one does not start."""
    with contextlib.ExitStack() as stack:

        def start(**settings: object) -> Running:
            defaults = {"repository": tmp_path / "models", "grpc_port": 0, "metrics_port": 0, "device": "cpu"}
            defaults["transport"] = transport
            running = Running(Settings(**(defaults | settings)))
            if running.error is not None:
                raise running.error
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture(scope="session", autouse=True)
def listen_by(transport: str) -> None:
    """Serve single methods by the same transport as servers."""
    listening.chosen[0] = transport


@pytest.fixture(autouse=True)
def hang_up_is_not_ignored() -> Iterator[None]:
    """Under `nohup` it is, and what a process ignores its children ignore, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
