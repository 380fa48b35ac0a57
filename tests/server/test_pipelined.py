"""Two batches on their way at any time, on a machine that does nothing before it must.

The machine stands in for CUDA: it queues what it is told, and works a stream off only when somebody waits
for it, so that a missing wait or a buffer that is used too early shows in the answers. Networks are real.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import pytest

from export import pipeline
from server.errors import DeviceError
from server.pipelined import PipelinedNetwork, Started

MODEL = "lenet5-digits"
SHAPE = (32, 32, 1)
SIZES = (1, 2, 4, 8)


@dataclass
class LazyCuda:
    """See the module; pointers are those of NumPy's memory."""

    streams: dict[int, deque[Callable[[], None]]] = field(default_factory=dict)
    records: dict[int, tuple[int, int]] = field(default_factory=dict)  # event: stream, its work at that time
    done: dict[int, int] = field(default_factory=dict)  # stream: how much of its work is done
    queued: dict[int, int] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    events: set[int] = field(default_factory=set)
    failures: deque[Exception] = field(default_factory=deque)
    _names: int = 0

    def _name(self) -> int:
        self._names += 1
        return self._names

    def stream(self) -> int:
        name = self._name()
        self.streams[name], self.done[name], self.queued[name] = deque(), 0, 0
        return name

    def event(self) -> int:
        self.events.add(name := self._name())
        return name

    def pin(self, array: np.ndarray) -> None:
        self.pinned.add(array.ctypes.data)

    def unpin(self, array: np.ndarray) -> None:
        self.pinned.remove(array.ctypes.data)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self.streams[stream].append(work)
        self.queued[stream] += 1

    def copy_in(self, pointer: int, array: np.ndarray, stream: int) -> None:
        assert array.ctypes.data in self.pinned
        self.enqueue(stream, lambda: ctypes.memmove(pointer, array.ctypes.data, array.nbytes))

    def copy_out(self, array: np.ndarray, pointer: int, stream: int) -> None:
        assert array.ctypes.data in self.pinned
        self.enqueue(stream, lambda: ctypes.memmove(array.ctypes.data, pointer, array.nbytes))

    def record(self, event: int, stream: int) -> None:
        assert event in self.events
        self.records[event] = (stream, self.queued[stream])

    def wait(self, stream: int, event: int) -> None:
        until = self.records[event]
        self.enqueue(stream, lambda: self._work(*until))

    def synchronize(self, event: int) -> None:
        if self.failures:
            raise self.failures.popleft()
        self._work(*self.records[event])

    def synchronize_stream(self, stream: int) -> None:
        self._work(stream, self.queued[stream])

    def release(self, streams: list[int], events: list[int]) -> None:
        for stream in streams:
            del self.streams[stream]
        self.events -= set(events)

    def _work(self, stream: int, until: int) -> None:
        while self.done[stream] < until:
            self.done[stream] += 1
            self.streams[stream].popleft()()


class Graphs:
    """A session whose third run under an id captures the memory that later runs under it use."""

    def __init__(self, path: str, cuda: LazyCuda, one_id: bool = False, fails_at: int | None = None) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._cuda = cuda
        self._one_id = one_id
        self._fails_at = fails_at
        self.stream = cuda.stream()
        self.captured: dict[int, Memory] = {}
        self.runs: dict[int, int] = {}

    def bind(self, rows: tuple[int, ...], answers: tuple[int, ...], graph_id: int) -> "Memory":
        if len(self.runs) == self._fails_at:
            raise RuntimeError("all compute graph nodes have not been partitioned")
        return Memory(self, rows, answers, 1 if self._one_id else graph_id)

    def replay(self, memory: "Memory") -> None:
        graph_id = memory.graph_id
        self.runs[graph_id] = self.runs.get(graph_id, 0) + 1
        if self.runs[graph_id] == 3:
            self.captured[graph_id] = memory
        used = self.captured.get(graph_id, memory)
        self._cuda.enqueue(self.stream, lambda: self._run(used))

    def _run(self, memory: "Memory") -> None:
        memory.answers_[:] = self._session.run(None, {"images": memory.rows_})[0]


class Memory:
    """Device memory of one set."""

    def __init__(
        self, graphs: Graphs, rows: tuple[int, ...], answers: tuple[int, ...], graph_id: int
    ) -> None:
        self._graphs = graphs
        self.graph_id = graph_id
        self.rows_, self.answers_ = np.zeros(rows, np.uint8), np.zeros(answers, np.float32)
        self.rows, self.answers = self.rows_.ctypes.data, self.answers_.ctypes.data

    def run(self) -> None:
        self._graphs.replay(self)


@pytest.fixture
def path(exported: dict[str, pipeline.Exported]) -> str:
    return str(exported[MODEL].folder / "model.onnx")


@pytest.fixture
def cuda() -> LazyCuda:
    return LazyCuda()


def network(path: str, cuda: LazyCuda, sizes: Sequence[int] = SIZES, **graphs: object) -> PipelinedNetwork:
    return PipelinedNetwork(Graphs(path, cuda, **graphs), cuda, SHAPE, 10, sizes)


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def wanted(path: str, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def test_batches_of_any_size_with_two_on_their_way_get_their_own_answers(path: str, cuda: LazyCuda) -> None:
    one = network(path, cuda)
    random = np.random.default_rng(0)
    flying: deque[tuple[Started, np.ndarray]] = deque()
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for seed in range(200):
        images = noise(int(random.integers(1, 9)), seed)
        if len(flying) == one.depth:
            started, asked = flying.popleft()
            np.testing.assert_allclose(one.finish(started), plain.run(None, {"images": asked})[0], atol=1e-6)
        flying.append((one.start(images), images))
    for started, asked in flying:
        np.testing.assert_allclose(one.finish(started), plain.run(None, {"images": asked})[0], atol=1e-6)


def test_a_batch_goes_to_the_smallest_size_that_holds_it(path: str, cuda: LazyCuda) -> None:
    graphs = Graphs(path, cuda)
    one = PipelinedNetwork(graphs, cuda, SHAPE, 10, SIZES)
    sizes = {graph_id: memory.rows_.shape[0] for graph_id, memory in graphs.captured.items()}
    before = dict(graphs.runs)
    for count in range(1, 9):
        assert one.infer(noise(count, 0)).shape == (count, 10)
    runs = dict.fromkeys(SIZES, 0)
    for graph_id, ran in graphs.runs.items():
        runs[sizes[graph_id]] += ran - before[graph_id]
    assert runs == {1: 1, 2: 1, 4: 2, 8: 4}


def test_what_an_earlier_batch_left_in_the_padding_changes_no_answer(path: str, cuda: LazyCuda) -> None:
    one = network(path, cuda, [8])
    for _ in range(one.depth):
        one.infer(np.full((8, *SHAPE), 255, np.uint8))
    images = noise(3, 1)
    np.testing.assert_allclose(one.infer(images), wanted(path, images), atol=1e-6)


def test_every_set_of_every_size_has_a_graph_of_its_own(path: str, cuda: LazyCuda) -> None:
    graphs = Graphs(path, cuda)
    PipelinedNetwork(graphs, cuda, SHAPE, 10, SIZES)
    assert len(graphs.captured) == 2 * len(SIZES)
    assert len({memory.rows for memory in graphs.captured.values()}) == 2 * len(SIZES)


def test_graphs_that_share_an_id_are_not_missed_by_alternating_batches(path: str, cuda: LazyCuda) -> None:
    one = network(path, cuda, [4], one_id=True)
    answers = [one.infer(noise(4, seed)) for seed in range(2)]
    right = [np.allclose(answers[seed], wanted(path, noise(4, seed)), atol=1e-3) for seed in range(2)]
    assert sorted(right) == [False, True]


def test_a_third_batch_before_the_first_is_finished_is_a_bug_and_said_so(path: str, cuda: LazyCuda) -> None:
    one = network(path, cuda)
    started = [one.start(noise(4, seed)) for seed in range(2)]
    with pytest.raises(RuntimeError, match="both sets of batch size 4 are on their way"):
        one.start(noise(4, 2))
    for seed, batch in enumerate(started):
        np.testing.assert_allclose(one.finish(batch), wanted(path, noise(4, seed)), atol=1e-6)


def test_a_batch_that_the_device_fails_leaves_the_next_ones_unharmed(path: str, cuda: LazyCuda) -> None:
    one = network(path, cuda)
    cuda.failures.append(DeviceError("CUDA: unspecified launch failure"))
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        one.infer(noise(2, 0))
    for seed in range(4):
        np.testing.assert_allclose(one.infer(noise(2, seed)), wanted(path, noise(2, seed)), atol=1e-6)


@pytest.mark.parametrize("fails_at", [0, 1, 5])
def test_a_graph_that_cannot_be_captured_leaves_nothing_behind(
    path: str, cuda: LazyCuda, fails_at: int
) -> None:
    with pytest.raises(RuntimeError, match="partitioned"):
        network(path, cuda, fails_at=fails_at)
    assert (cuda.pinned, cuda.events, len(cuda.streams)) == (set(), set(), 1)  # the session's own stream


def test_closing_gives_everything_back(path: str, cuda: LazyCuda) -> None:
    one = network(path, cuda)
    assert (len(cuda.pinned), len(cuda.events)) == (2 * 2 * len(SIZES), 2 * 2 * len(SIZES))
    one.close()
    assert (cuda.pinned, cuda.events, len(cuda.streams)) == (set(), set(), 1)
