"""What the server's tests share: pictures, and networks that can be held."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact.pictures import Pixels
from export import datasets, pipeline
from modelzoo.v1 import manifest_pb2
from server.device import Device
from server.network import OnnxNetwork, Probabilities

MODEL = "lenet5-digits"


class GatedNetwork:
    """The real network behind a gate: while the gate is shut, a batch waits on the lane.

    The first runs, which prove the model, pass without asking.
    """

    def __init__(self, path: Path, manifest: manifest_pb2.Manifest, device: Device) -> None:
        self._network = OnnxNetwork(path, manifest, device)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)  # counts batches that reached the gate
        self.batches: list[int] = []
        self.failure: Exception | None = None

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        self.entered.release()
        assert self.gate.wait(60), "nobody opened the gate"
        self.batches.append(len(rows))
        if self.failure is not None:
            raise self.failure
        return self._network.infer(rows)

    def shut(self) -> None:
        """Hold what comes from now on, and forget what came."""
        self.gate.clear()
        self.batches.clear()
        while self.entered.acquire(blocking=False):
            pass


class Gates:
    """Opens gated networks and remembers them, by the model's name."""

    def __init__(self) -> None:
        self.networks: dict[str, GatedNetwork] = {}

    def __call__(self, path: Path, manifest: manifest_pb2.Manifest, device: Device) -> GatedNetwork:
        network = GatedNetwork(path, manifest, device)
        self.networks[manifest.name] = network
        return network

    def __getitem__(self, name: str) -> GatedNetwork:
        return self.networks[name]


@pytest.fixture
def gates() -> Iterator[Gates]:
    """Give to `start_server(open_network=...)`; every gate is open again in the end."""
    gates = Gates()
    yield gates
    for network in gates.networks.values():
        network.gate.set()


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
