"""Who computes a run, its caller with the whole pool or a thread of the pool, and that it is the same."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest

from artifact import golden
from export import pipeline
from server.runtime.concurrency import Occupancy, Runs
from server.runtime.device import Device, open_session
from server.runtime.network import OnnxNetwork

MODEL = "lenet5-digits"
THREADS = 3


class Held:
    """A session whose runs are told, by who computes them, and go on one by one when the test says so."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.begun: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue()

    def run(self, *args: Any) -> Any:
        gate = threading.Event()
        self.begun.put(("caller", gate.set))
        assert gate.wait(60)
        return self._session.run(*args)

    def run_async(self, *args: Any) -> None:
        self.begun.put(("pool", lambda: self._session.run_async(*args)))


class Asking:
    """Asks a session, each question on a thread of its own."""

    def __init__(
        self, session: Held, runs: Runs, expected: golden.Golden, threads: ThreadPoolExecutor
    ) -> None:
        self._session = session
        self._runs = runs
        self._expected = expected
        self._threads = threads
        self.open: list[tuple[Callable[[], None], Future[np.ndarray]]] = []

    def begin(self) -> str:
        """Ask; tell who computes it."""
        asked = self._threads.submit(ask, self._runs, self._expected.images)
        way, let_go = self._session.begun.get(timeout=60)
        self.open.append((let_go, asked))
        return way

    def end(self, which: int = 0) -> None:
        """Let a run end, and look at its answers."""
        let_go, asked = self.open.pop(which)
        let_go()
        np.testing.assert_allclose(asked.result(60), self._expected.probabilities, atol=1e-5)


def ask(runs: Runs, images: np.ndarray) -> np.ndarray:
    return runs.run(["probabilities"], {"images": images})[0]


@pytest.fixture
def expected(exported: dict[str, pipeline.Exported]) -> golden.Golden:
    return golden.read(exported[MODEL].folder / exported[MODEL].manifest.golden.name)


@pytest.fixture
def asking(exported: dict[str, pipeline.Exported], expected) -> Iterator[Callable[..., Asking]]:
    path = exported[MODEL].folder / exported[MODEL].manifest.precisions[0].file.name
    made: list[Asking] = []
    with ThreadPoolExecutor(16) as pool:

        def make(occupancy: Occupancy, threads: int = THREADS) -> Asking:
            session = Held(open_session(path, Device("cpu", None, threads)))
            made.append(Asking(session, Runs(session, threads, occupancy), expected, pool))
            return made[-1]

        yield make
        for one in made:
            while one.open:
                one.end()


def test_a_run_alone_has_the_whole_pool_and_one_beside_it_a_thread_of_it(asking) -> None:
    model = asking(Occupancy())
    assert model.begin() == "caller"
    assert model.begin() == "pool"
    model.end(0)
    assert model.begin() == "caller"  # beside the pool's, which has threads enough for both
    model.end(0)
    assert model.begin() == "pool"
    model.end(0)
    model.end(0)
    assert model.begin() == "caller"


def test_beside_another_model_every_run_has_a_thread_of_its_pool(asking) -> None:
    occupancy = Occupancy()
    one, other = asking(occupancy), asking(occupancy)
    assert one.begin() == "caller"
    assert other.begin() == "pool"
    one.end()
    assert one.begin() == "pool"
    other.end()
    one.end()
    assert other.begin() == "caller"


@pytest.mark.parametrize("threads", [1, 2, THREADS])
def test_no_more_runs_are_the_pools_than_it_has_threads(asking, threads: int) -> None:
    model = asking(Occupancy(), threads)
    ways = [model.begin() for _ in range(THREADS + 2)]  # nobody waits for a thread
    assert ways == ["caller", *["pool"] * (threads - 1), *["caller"] * (THREADS + 2 - threads)]


def test_what_goes_wrong_in_the_pool_is_raised_and_the_next_run_is_answered(exported, expected) -> None:
    path = exported[MODEL].folder / exported[MODEL].manifest.precisions[0].file.name
    occupancy = Occupancy()
    occupancy.runs = 1  # of another model
    runs = Runs(open_session(path, Device("cpu", None, THREADS)), THREADS, occupancy)
    for _ in range(2 * THREADS):
        with pytest.raises(RuntimeError, match="images"):
            ask(runs, expected.images[:, :3])
    np.testing.assert_allclose(ask(runs, expected.images), expected.probabilities, atol=1e-5)
    assert occupancy.runs == 1


def test_many_at_once_have_the_answers_of_one_alone(exported, expected) -> None:
    path = exported[MODEL].folder / exported[MODEL].manifest.precisions[0].file.name
    device = Device("cpu", None, THREADS)
    network = OnnxNetwork(path, exported[MODEL].manifest, device, [len(expected.images)])
    with ThreadPoolExecutor(2 * THREADS) as pool:
        for found in pool.map(lambda _: network.infer(list(expected.images)), range(300)):
            np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
    assert device.occupancy.runs == 0
