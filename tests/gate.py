"""A network that can be held, for tests of its clients."""

import threading
from collections.abc import Sequence
from pathlib import Path

from artifact.pictures import Pixels
from modelzoo.v1 import manifest_pb2
from server.inference import Probabilities
from server.runtime.device import Device
from server.runtime.network import OnnxNetwork


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
