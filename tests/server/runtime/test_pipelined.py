"""Two batches on their way at a time get their own answers, on a machine that is as lazy as can be."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest

from artifact.errors import GoldenError
from client import ClientError
from export import pipeline
from export.data import datasets
from export.training import train
from modelzoo.v1 import manifest_pb2, open_inference_pb2, open_inference_pb2_grpc
from server.errors import DeviceError
from server.runtime import opening
from server.runtime.device import Device
from server.runtime.network import OnnxNetwork
from server.runtime.pipelined import PipelinedNetwork, Started
from tests.server.lazy_cuda import Graphs, LazyCuda

MODEL = "lenet5-digits"
SHAPE = (32, 32, 1)
SIZES = (1, 2, 4, 8)


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
        rows = images if seed % 2 else list(images)  # in one array, or one by one
        flying.append((one.start(rows), images))
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


class OnLazyCuda:
    """An `OpenNetwork` that opens every model on a machine of its own."""

    def __init__(self, **graphs: object) -> None:
        self._graphs = graphs
        self.networks: list[PipelinedNetwork] = []

    def __call__(
        self, path: Path, manifest: manifest_pb2.Manifest, device: Device, batch_sizes: Sequence[int]
    ) -> PipelinedNetwork:
        cuda = LazyCuda()
        shape = (manifest.input.height, manifest.input.width, manifest.input.channels)
        graphs = Graphs(str(path), cuda, **self._graphs)
        self.networks.append(PipelinedNetwork(graphs, cuda, shape, manifest.label_count, batch_sizes))
        return self.networks[-1]


def test_a_server_on_such_a_device_answers_every_digit_as_pytorch_does(start_server, exported) -> None:
    running = start_server(open_network=OnLazyCuda(), model_batch_sizes={MODEL: [1, 2, 4, 8]})
    expected = exported[MODEL]
    images = datasets.load("digits", seed=0, cache=Path()).test.fitted(
        expected.manifest.input, expected.manifest.preprocessing
    )
    wanted = train.probabilities(expected.served, images.images).argmax(axis=1)
    with running.client() as client:
        answers = dict(client.classify_stream(MODEL, list(images.images), top_k=1))
    assert [answers[index][0].index for index in range(len(wanted))] == wanted.tolist()


def test_a_server_does_not_serve_from_graphs_that_share_an_id(start_server) -> None:
    running = start_server(open_network=OnLazyCuda(one_id=True))
    assert running.ready == []
    with running.client() as client:
        for model in client.list_models():
            assert "differ" in model.reason, model.reason


def test_an_unloaded_model_and_one_that_failed_give_everything_back(start_server) -> None:
    good, bad = OnLazyCuda(), OnLazyCuda(one_id=True)
    running = start_server(open_network=good, allow_model_control=True)
    start_server(open_network=bad)
    with running.client() as client, grpc.insecure_channel(running.address) as channel:
        names = [model.name for model in client.list_models()]
        unload = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelUnload
        for name in names:
            unload(open_inference_pb2.RepositoryModelUnloadRequest(model_name=name))
    for network in good.networks + bad.networks:
        assert (network._cuda.pinned, network._cuda.events) == (set(), set())


def test_a_batch_that_fails_on_its_way_fails_alone(start_server) -> None:
    opener = OnLazyCuda()
    running = start_server(open_network=opener)
    images = [np.zeros(SHAPE, np.uint8)] * 4
    for network in opener.networks:
        network._cuda.failures.append(DeviceError("CUDA: unspecified launch failure"))
    with running.client() as client:
        with pytest.raises(ClientError, match="the device failed this batch"):
            client.classify(MODEL, images)
        assert len(client.classify(MODEL, images)) == 4
    assert "unspecified launch failure" in running.log.getvalue()


def test_what_cannot_be_captured_runs_in_a_plain_session_that_says_why(path: str, exported) -> None:
    manifest = exported[MODEL].manifest
    plain = OnnxNetwork(Path(path), manifest, Device("cpu", None, 1), [4])

    def capture() -> PipelinedNetwork:
        raise RuntimeError("all compute graph nodes have not been partitioned\nto the CUDA provider")

    assert opening.captured_or_plain(capture, lambda: plain) is plain
    assert plain.not_captured == "all compute graph nodes have not been partitioned"


def test_what_is_not_what_the_manifest_says_is_not_tried_again() -> None:
    def capture() -> PipelinedNetwork:
        raise GoldenError("model.onnx takes float")

    with pytest.raises(GoldenError, match="takes float"):
        opening.captured_or_plain(capture, lambda: pytest.fail("there was no need to"))
