"""What tests of several rooms share: exported models, and servers to ask."""

import asyncio
import fcntl
import functools
import gc
import io
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from artifact import golden
from artifact.golden import Golden
from client import Client
from server.app import Server
from server.batching.queues import ModelQueue
from server.config import Settings
from server.observability import logs
from server.repository.repository import Repository
from server.runtime.network import OnnxNetwork, OpenNetwork
from tests.gate import Gate

if TYPE_CHECKING:  # what only distributes tests to workers needs no PyTorch, which takes it nine seconds
    from export import pipeline

# A minute of training is for the slow tests; these networks only have to be real.
QUICK = {"simple_cnn": 8, "two_block_cnn": 2, "lenet5": 2}  # epochs


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded, wherever they ran."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the servers of all tests have front ends; those that look into a server's one process then fail."""
    parser.addoption("--frontends", type=int, default=0, help="front ends of the servers that tests start")
    parser.addoption("--transport", default="grpc", help="transport of the servers that tests start")


@pytest.fixture(scope="session")
def frontends(request: pytest.FixtureRequest) -> int:
    """How many front ends servers have, unless a test says."""
    return request.config.getoption("--frontends")


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> str:
    """By which transport servers are reached, unless a test says."""
    return request.config.getoption("--transport")


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> None:
    """Remove what the developer's shell tells a server."""
    for name in [name for name in os.environ if name.startswith("MODELZOO_")]:
        del os.environ[name]


@pytest.fixture(scope="module", autouse=True)
def frozen_past() -> None:
    """Let the garbage collector pass over what earlier modules and the training libraries left.

    A server collects garbage whenever it measures memory, six times a start. Alone that takes it a few
    milliseconds, among a million objects of a process that exported networks a quarter of a second each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """Let all exports of a process share PyTorch's tables of operators.

    `torch.onnx.export` only reads them, but parses the sources of 500 functions for each anew, and lists the
    dispatcher's operators sixty times: more than half of its time.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    operators = functools.cache(ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(operators))
        patch.setattr(utils, "_materialize_cpp_cia_ops", functools.cache(utils._materialize_cpp_cia_ops))
        yield


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str, testrun_uid: str
) -> "dict[str, pipeline.Exported]":
    """The digits models, briefly trained, by the names they serve under; all in one repository.

    The workers of a run share it, and the work: each exports what no other has begun, then waits.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / f"exported-{testrun_uid}"
    shared.mkdir(exist_ok=True)
    found: dict[str, pipeline.Exported] = {}
    for wait in (False, True):
        for name in [name for name in QUICK if name not in found]:
            if (one := export_once(name, shared, wait=wait)) is not None:
                found[name] = one
    return {f"{name}-digits": found[name] for name in QUICK}


def export_once(name: str, shared: Path, *, wait: bool) -> "pipeline.Exported | None":
    """Export a model, or take over what another worker exported; None while one is at it, unless to wait."""
    from export import pipeline
    from export.training.recipes import Recipe
    from zoo import catalog

    kept = shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not kept.exists():
            recipe = Recipe(epochs=QUICK[name], learning_rate=1e-2)
            request = pipeline.Request(shared / "models", recipe=recipe)
            kept.write_bytes(pickle.dumps(pipeline.export(catalog.find(name), request)))
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def repository(exported: "dict[str, pipeline.Exported]") -> Path:
    """A repository with the digits models; not to be changed."""
    return next(iter(exported.values())).folder.parent.parent


@pytest.fixture(scope="session")
def repository_of(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives a repository with some of the digits models; not to be changed."""

    @functools.cache
    def of(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("some") / "models"
        for name in names:
            shutil.copytree(repository / name, folder / name)
        return folder

    return of


@pytest.fixture(scope="session")
def digits(repository: Path) -> Golden:
    """Sixteen real digits, 8 x 8, with PyTorch's answers."""
    return golden.read(repository / "simple_cnn-digits" / "1" / "golden.npz")


@pytest.fixture
def scratch_repository(repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository, to be damaged."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@dataclass
class Running:
    """A server on free ports, in a thread of this process with an event loop of its own."""

    settings: Settings
    open_network: OpenNetwork = OnnxNetwork
    ready: list[str] = field(default_factory=list)
    log: io.StringIO = field(default_factory=io.StringIO)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self._thread.start()
        self._started.wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.server.metrics_port}/metrics"

    def client(self) -> Client:
        return Client(self.address)

    def stop(self) -> None:
        if self.error is None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._told_to_stop.set)
        self._thread.join()

    def force_stop(self) -> None:
        self._loop.call_soon_threadsafe(self.server.force_stop)

    # What no client and no metric shows, for tests of what becomes of it; nothing else looks inside a server.

    @property
    def repository(self) -> Repository:
        return self.server._repository

    @property
    def front(self) -> Any:
        return self.server._front

    def queue(self, model: str) -> ModelQueue:
        [queue] = [queue for queue in self.server._batcher._queues if queue.name == model]
        return queue

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told_to_stop = asyncio.Event()
        try:
            self.server = Server(self.settings, logs.make("json", self.log), self.open_network)
            await self.server.open()
            self.ready = await self.server.load()
        except Exception as error:  # noqa: BLE001 - for the test to see
            self.error = error
            return
        finally:
            self._started.set()
        await self._told_to_stop.wait()
        await self.server.stop()


StartServer = Callable[..., Running]


@pytest.fixture
def start_server(
    request: pytest.FixtureRequest, repository_of: Callable[..., Path], frontends: int, transport: str
) -> Iterator[StartServer]:
    """Starts servers; settings by name; `open_network` gives another network than the real one.

    They hold the models that the mark `serves` names, or LeNet-5 alone: each takes a sixth of a second.
    """
    mark = request.node.get_closest_marker("serves")
    repository = repository_of(*(mark.args if mark else ["lenet5-digits"]))
    running: list[Running] = []

    def start(open_network: OpenNetwork = OnnxNetwork, **settings: Any) -> Running:
        defaults = {"repository": repository, "grpc_port": 0, "metrics_port": 0, "device": "cpu"}
        defaults["transport"] = transport
        if not settings.get("allow_client_shm"):
            defaults["frontends"] = frontends
        if open_network is not OnnxNetwork:
            defaults |= {"lanes": 1, "max_loop_s": 0.0}  # what does not run, waits, on the lane
        running.append(Running(Settings(**(defaults | settings)), open_network))
        if running[-1].error is not None:
            raise running[-1].error
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server(repository: Path, frontends: int, transport: str) -> Iterator[Running]:
    """One server with the digits models, for every test that leaves it as it was."""
    settings = Settings(
        repository=repository,
        grpc_port=0,
        metrics_port=0,
        device="cpu",
        frontends=frontends,
        transport=transport,
    )
    running = Running(settings)
    if running.error is not None:
        raise running.error
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    """A client of the shared server."""
    with server.client() as client:
        yield client


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Holds a network of `start_server`: its batches wait until the gate is open, as it is in the end."""
    gate = Gate()
    yield gate
    gate.open()
