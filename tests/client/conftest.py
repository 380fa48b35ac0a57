"""What the client's tests share: real digits, loads of them, and networks that can be held."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from artifact import golden
from artifact.golden import Golden
from artifact.pictures import Pixels
from client import Client
from client.dialects import Classify
from client.load import Load
from modelzoo.v1 import manifest_pb2
from server.inference import Probabilities
from server.runtime.device import Device
from server.runtime.network import OnnxNetwork

NAME = "simple_cnn-digits"

MakeLoad = Callable[..., Load]


@pytest.fixture
def client_of() -> Iterator[Callable[[grpc.GenericRpcHandler], Client]]:
    """Starts servers of a handler each, that need not be ours, and gives clients of them."""
    servers, clients = [], []

    def start(handler: grpc.GenericRpcHandler) -> Client:
        servers.append(grpc.server(ThreadPoolExecutor(1), handlers=[handler]))
        port = servers[-1].add_insecure_port("127.0.0.1:0")
        servers[-1].start()
        clients.append(Client(f"127.0.0.1:{port}"))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in servers:
        server.stop(None).wait()


@pytest.fixture(scope="session")
def digits(repository: Path) -> Golden:
    """Sixteen real digits, 8 x 8, with PyTorch's answers."""
    return golden.read(repository / NAME / "1" / "golden.npz")


@pytest.fixture
def make_load(digits: Golden) -> MakeLoad:
    """Make a load of the digits with their right labels; its fields by name."""
    labels = [{int(label)} for label in digits.probabilities.argmax(axis=1)]

    def make(model: str = NAME, **wishes: object) -> Load:
        usual = {"dialect": Classify(model), "pictures": list(digits.images), "labels": labels}
        return Load(**(usual | wishes))

    return make


class Gate:
    """Holds a real network's batches back while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()

    def open_network(
        self, path: Path, manifest: manifest_pb2.Manifest, device: Device, batch_sizes: Sequence[int]
    ) -> "Gated":
        return Gated(OnnxNetwork(path, manifest, device, batch_sizes), self)

    def shut(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.reached.set()
        self._open.wait()


class Gated:
    """A network behind a gate."""

    def __init__(self, network: OnnxNetwork, gate: Gate) -> None:
        self._network = network
        self._gate = gate

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        self._gate.pass_through()
        return self._network.infer(rows)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()
