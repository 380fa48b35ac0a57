"""Front ends: whoever asks them gets what a server in one process would say, from whichever of them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from client import Client, ClientError
from export.data import datasets
from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc, open_inference_pb2_grpc
from modelzoo.v1 import open_inference_pb2 as messages
from server.config import Settings
from server.errors import StartError
from tests.conftest import Running
from tests.server import group

MODEL, OTHER = "lenet5-digits", "simple_cnn-digits"
FRONTENDS = 2
BLANK = np.zeros((32, 32, 1), np.uint8)


@pytest.fixture(scope="module")
def fronted(repository: Path) -> Iterator[Running]:
    """A server with front ends, for every test that leaves it as it was."""
    settings = Settings(
        repository=repository,
        grpc_port=0,
        metrics_port=0,
        device="cpu",
        frontends=FRONTENDS,
        allow_model_control=True,
        log_format="json",
    )
    running = Running(settings)
    if running.error is not None:
        raise running.error
    yield running
    running.stop()


@pytest.fixture(scope="module")
def clients(fronted: Running) -> Iterator[dict[int, Client]]:
    """A client of each front end."""
    with group.one_client_each(fronted) as clients:
        yield clients


def pixels(image: np.ndarray) -> classifier_pb2.Image:
    height, width, channels = image.shape
    return classifier_pb2.Image(
        pixels=classifier_pb2.Pixels(height=height, width=width, channels=channels, data=image.tobytes())
    )


def refusal(address: str, method: str, request: object) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """Have a request refused: the status, and all that is said beside it."""
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=unlimited) as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        if not hasattr(stub, method):
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            getattr(stub, method)(request)
    return caught.value.code(), caught.value.details(), rpc_status.from_call(caught.value)


def tensor(images: np.ndarray, **fields: object) -> messages.ModelInferRequest:
    request = messages.ModelInferRequest(
        **({"model_name": MODEL} | fields), raw_input_contents=[images.tobytes()]
    )
    request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    return request


def test_answers_are_those_of_one_process(fronted, clients, server, digits: datasets.Split, encode) -> None:
    pictures = [encode(image) for image in digits.images[:3]]
    raw = list(np.random.default_rng(0).integers(0, 256, (4, *BLANK.shape), np.uint8))
    with server.client() as alone:
        for sent in (pictures, raw, [*pictures, *raw]):
            expected = alone.classify_raw(MODEL, sent, top_k=10)
            for client in clients.values():
                answer = client.classify_raw(MODEL, sent, top_k=10)
                assert (answer.model, answer.version) == (MODEL, 1)
                for mine, theirs in zip(answer.classifications, expected.classifications, strict=True):
                    assert [s.label for s in mine.labels] == [s.label for s in theirs.labels]
                    got, wanted = ([s.probability for s in c.labels] for c in (mine, theirs))
                    assert np.allclose(got, wanted, atol=1e-6)
                assert answer.timing.batch_size >= 1
                assert answer.timing.infer_us > 0
        streamed = dict(clients[1].classify_stream(MODEL, [*pictures, b"no picture", *raw], top_k=1))
        assert {index for index, labels in streamed.items() if isinstance(labels, ClientError)} == {3}
        single = alone.classify(MODEL, pictures, top_k=1)
        assert [streamed[index][0].text for index in range(3)] == [labels[0].text for labels in single]
    request = tensor(np.stack(raw), id="seven")
    answers = []
    for address in (fronted.address, server.address):
        with grpc.insecure_channel(address) as channel:
            answers.append(open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request))
    mine, theirs = (np.frombuffer(answer.raw_output_contents[0], "<f4") for answer in answers)
    assert mine.shape == (4 * 10,)
    assert np.allclose(mine, theirs, atol=1e-6)
    for answer in answers:
        del answer.raw_output_contents[:]
    assert answers[0] == answers[1]


CLASSIFY, INFER = classifier_pb2.ClassifyRequest, messages.ModelInferRequest
REFUSED = [  # built when they are sent: one has 100 MB
    ("Classify", lambda: CLASSIFY(model="nobody", images=[pixels(BLANK)])),
    ("Classify", lambda: CLASSIFY(model=MODEL, version=7, images=[pixels(BLANK)])),
    ("Classify", lambda: CLASSIFY(model=MODEL)),
    ("Classify", lambda: CLASSIFY(model=MODEL, images=[pixels(BLANK), pixels(BLANK[:31])])),
    ("Classify", lambda: CLASSIFY(model=MODEL, images=[classifier_pb2.Image(encoded=b"no picture")])),
    ("Classify", lambda: CLASSIFY(model=MODEL, images=[pixels(BLANK)], top_k=11)),
    ("Classify", lambda: CLASSIFY(model=MODEL, images=[pixels(np.zeros((4096, 8192, 3), np.uint8))])),
    ("GetModel", lambda: classifier_pb2.GetModelRequest(name="nobody")),
    ("ModelInfer", lambda: tensor(np.zeros((1, 31, 32, 1), np.uint8))),
    ("ModelInfer", lambda: tensor(BLANK[None], model_version="x")),
    ("ModelStatistics", lambda: messages.ModelStatisticsRequest(name="nobody")),
    ("RepositoryModelLoad", lambda: messages.RepositoryModelLoadRequest(repository_name="x")),
    ("SystemSharedMemoryRegister", lambda: messages.SystemSharedMemoryRegisterRequest(name="r", key="k")),
]


@pytest.mark.parametrize(
    ("method", "build"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_refusals_are_those_of_one_process(fronted, start_server, server, method, build) -> None:
    request_ = build()
    alone = server if method != "RepositoryModelLoad" else start_server(allow_model_control=True)
    mine, theirs = (refusal(address, method, request_) for address in (fronted.address, alone.address))
    assert mine == theirs


def test_every_front_end_tells_of_models_and_health(fronted, clients, server, exported) -> None:
    with server.client() as alone:
        expected = [(model.name, model.version, model.state) for model in alone.list_models()]
        described = alone.get_model(MODEL)
    for client in clients.values():
        assert [(model.name, model.version, model.state) for model in client.list_models()] == expected
        response = client.get_model(MODEL)
        assert (response.manifest, response.labels) == (described.manifest, described.labels)
        for name in ("", *exported):
            assert client.is_serving(name)
        health = health_pb2_grpc.HealthStub(client._channel)
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(client._channel)
        assert inference.ServerReady(messages.ServerReadyRequest()).ready
        config = inference.ModelConfig(messages.ModelConfigRequest(name=MODEL)).config
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024


def test_many_clients_get_their_own_answers_and_all_are_counted(fronted, clients, server) -> None:
    images = [np.full(BLANK.shape, value, np.uint8) for value in range(0, 256, 16)]
    with server.client() as alone:
        expected = [alone.classify(MODEL, [image], top_k=10)[0] for image in images]
    labels = {"model": MODEL}
    before = {
        name: group.total(fronted, name, **labels)
        for name in ("modelzoo_images_total", "modelzoo_request_duration_seconds_count")
    }
    inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(clients[1]._channel)
    ask = messages.ModelStatisticsRequest(name=MODEL)
    told_before = inference.ModelStatistics(ask).model_stats[0]
    spread_before = answered_by_each(fronted)

    def work(index: int) -> None:
        with fronted.client() as client:
            for turn in range(8):
                which = (index + turn) % len(images)
                [labels] = client.classify(MODEL, [images[which]], top_k=10)
                got = {label.index: label.probability for label in labels}
                for label in expected[which]:
                    assert got[label.index] == pytest.approx(label.probability, abs=1e-5)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    for name, value in before.items():
        assert group.total(fronted, name, **labels) == value + 128
    assert group.total(fronted, "modelzoo_requests_total", code="OK", **labels) == group.total(
        fronted, "modelzoo_request_duration_seconds_count", **labels
    )
    told = inference.ModelStatistics(ask).model_stats[0]
    assert told.inference_stats.success.count == told_before.inference_stats.success.count + 128
    assert told.inference_stats.success.ns > told_before.inference_stats.success.ns
    assert told.inference_count == told_before.inference_count + 128
    spread = answered_by_each(fronted)
    assert all(spread[number] > spread_before[number] for number in (1, 2))
    assert group.total(fronted, "modelzoo_frontends") == FRONTENDS
    for number in ("1", "2"):
        assert group.total(fronted, "modelzoo_frontend_cpu_seconds_total", frontend=number) > 0
        assert group.total(fronted, "modelzoo_frontend_resident_memory_bytes", frontend=number) > 30e6


def answered_by_each(running) -> dict[int, float]:
    group.scrape(running)
    return {
        supervisor._number: supervisor.connection.counters.counts["modelzoo_images"].get(
            ("modelzoo_images_total", ("model", MODEL)), 0
        )
        for supervisor in group.supervisors(running)
    }


def test_the_metrics_page_has_the_series_of_a_single_process_and_all_of_them_at_zero(start_server) -> None:
    alone, mine = (group.scrape(start_server(frontends=count)) for count in (0, 2))
    assert {name for name, _ in mine.keys() - alone.keys()} == {
        "modelzoo_frontend_cpu_seconds_total", "modelzoo_frontend_resident_memory_bytes",
    }  # fmt: skip
    assert alone.keys() <= mine.keys()
    counted = {
        key: value
        for key, value in mine.items()
        if key[0].startswith(("grpc_server", "modelzoo_")) and key[0].endswith(("_total", "_count", "_sum"))
    }
    assert len(counted) > 500
    used = {name for (name, _), value in counted.items() if value}
    assert used == {"modelzoo_frontend_cpu_seconds_total"}


def test_what_one_front_end_is_told_to_load_or_unload_all_know_at_once(fronted, clients) -> None:
    first, second = (
        open_inference_pb2_grpc.GRPCInferenceServiceStub(clients[number]._channel) for number in (1, 2)
    )
    for one, other in ((first, second), (second, first)):
        one.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name=OTHER))
        for stub in (other, one):
            index = stub.RepositoryIndex(messages.RepositoryIndexRequest()).models
            assert {model.name: model.state for model in index}[OTHER] == "UNAVAILABLE"
            assert not stub.ModelReady(messages.ModelReadyRequest(name=OTHER)).ready
        with pytest.raises(ClientError, match="is unloaded") as caught:
            clients[2].classify(OTHER, [np.zeros((8, 8, 1), np.uint8)])
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        one.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=OTHER))
        for client in clients.values():
            assert len(client.classify(OTHER, [np.zeros((8, 8, 1), np.uint8)])[0]) == 5
            assert client.is_serving(OTHER)
    with pytest.raises(grpc.RpcError) as caught:
        first.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_port_is_held_against_everybody_else(fronted, start_server) -> None:
    for settings in ({"frontends": 1}, {}):
        with pytest.raises(StartError, match="address already in use"):
            start_server(grpc_port=fronted.server.grpc_port, **settings)


def test_a_port_in_use_stops_the_start_with_one_line(start_server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{number}: address already in use"):
            start_server(grpc_port=number, frontends=1)


def test_a_front_end_loads_no_onnx_runtime() -> None:
    code = "import sys, server.frontend; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
