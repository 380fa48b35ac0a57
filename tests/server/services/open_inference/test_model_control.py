"""Clients that may load and unload models: nothing that was accepted is lost, and what is freed is gone."""

import gc
import json
import shutil
import urllib.request
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelzoo.v1 import open_inference_pb2 as messages
from server.runtime.network import OnnxNetwork, OpenNetwork

MODEL, OTHERS = "lenet5-digits", ("simple_cnn-digits", "two_block_cnn-digits")
PIXELS = np.zeros((1, 32, 32, 1), np.uint8)
Load, Unload = messages.RepositoryModelLoadRequest, messages.RepositoryModelUnloadRequest


@pytest.fixture
def controlled(start_server, scratch_repository: Path, tensors_of) -> Callable[..., tuple[object, object]]:
    """Start a server that lets clients load and unload, and ask it."""

    def start(open_network: OpenNetwork = OnnxNetwork, **settings: object) -> tuple[object, object]:
        running = start_server(
            open_network=open_network, repository=scratch_repository, allow_model_control=True, **settings
        )
        return running, tensors_of(running)

    return start


def publish(repository: Path, version: int, name: str = MODEL) -> Path:
    """Publish version 1 again, under another number."""
    folder = Path(shutil.copytree(repository / name / "1", repository / name / str(version)))
    described = json.loads((folder / "manifest.json").read_text()) | {"version": version}
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder


def states(tensors) -> dict[str, tuple[str, str]]:
    """The version and the state of every model."""
    index = tensors.stub.RepositoryIndex(messages.RepositoryIndexRequest())
    return {one.name: (one.version, one.state) for one in index.models}


def answered_by(tensors) -> str:
    return tensors.stub.ModelInfer(tensors.pixels(PIXELS)).model_version


def held(tensors, network) -> "grpc.Future":
    """Ask, and have the device hold the answer back until `network.gate` is set."""
    network.shut()
    accepted = tensors.stub.ModelInfer.future(tensors.pixels(PIXELS))
    network.entered.acquire()
    return accepted


def test_nobody_loads_or_unloads_unless_a_setting_allows_it(tensors) -> None:
    for call, request in (
        (tensors.stub.RepositoryModelLoad, Load(model_name=MODEL)),
        (tensors.stub.RepositoryModelUnload, Unload(model_name=MODEL)),
    ):
        code, details = tensors.refusal(call, request)
        assert code == "PERMISSION_DENIED"
        assert "allow_model_control" in details
    assert states(tensors) == dict.fromkeys((MODEL, *OTHERS), ("1", "READY"))


def test_an_unloaded_model_is_unavailable_until_it_is_loaded_again(controlled) -> None:
    _, tensors = controlled()
    answered_by(tensors)
    request = Unload(model_name=MODEL)
    request.parameters["unload_dependents"].bool_param = True
    for _ in range(2):  # unloading what is unloaded changes nothing
        tensors.stub.RepositoryModelUnload(request)
        assert states(tensors)[MODEL] == ("1", "UNAVAILABLE")
    assert not tensors.stub.ModelReady(messages.ModelReadyRequest(name=MODEL)).ready
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.pixels(PIXELS))
    assert (code, details) == ("UNAVAILABLE", "lenet5-digits is unloaded")
    index = tensors.stub.RepositoryIndex(messages.RepositoryIndexRequest()).models
    assert [one.reason for one in index] == ["unloaded", "", ""]
    assert tensors.stub.ServerReady(messages.ServerReadyRequest()).ready  # the others serve
    for _ in range(2):  # loading what serves changes nothing
        tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
        assert states(tensors)[MODEL] == ("1", "READY")
    assert answered_by(tensors) == "1"
    [told] = tensors.stub.ModelStatistics(messages.ModelStatisticsRequest(name=MODEL)).model_stats
    assert told.inference_count == 1  # since it was loaded


def test_a_server_without_its_last_model_is_not_ready(controlled) -> None:
    running, tensors = controlled()
    with grpc.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def serving() -> list[bool]:
            names = ("", "inference.GRPCInferenceService", "modelzoo.v1.ClassifierService", MODEL)
            checks = [health.Check(health_pb2.HealthCheckRequest(service=name)) for name in names]
            return [check.status == health_pb2.HealthCheckResponse.SERVING for check in checks]

        assert serving() == [True] * 4
        for name in (MODEL, *OTHERS):
            tensors.stub.RepositoryModelUnload(Unload(model_name=name))
        assert serving() == [False] * 4
        assert not tensors.stub.ServerReady(messages.ServerReadyRequest()).ready
        tensors.stub.RepositoryModelLoad(Load(model_name=OTHERS[0]))
        assert serving() == [True, True, True, False]
        assert tensors.stub.ServerReady(messages.ServerReadyRequest()).ready


def test_unloading_waits_for_what_was_accepted_and_takes_no_more(controlled, gates, wait_for) -> None:
    running, tensors = controlled(gates)
    network = gates[MODEL]
    accepted = [held(tensors, network)]
    accepted.append(tensors.stub.ModelInfer.future(tensors.pixels(PIXELS)))
    wait_for(lambda: running.queue(MODEL).waiting == 1)
    unloading = tensors.stub.RepositoryModelUnload.future(Unload(model_name=MODEL))
    wait_for(lambda: states(tensors)[MODEL] == ("1", "UNLOADING"))
    code, details = tensors.refusal(tensors.stub.ModelInfer, tensors.pixels(PIXELS))
    assert (code, details) == ("UNAVAILABLE", "lenet5-digits is draining")
    assert not unloading.done()
    network.gate.set()
    assert [len(tensors.probabilities(call.result())) for call in accepted] == [1, 1]
    unloading.result()
    assert states(tensors)[MODEL] == ("1", "UNAVAILABLE")


@pytest.mark.parametrize("lanes", [1, 3])
def test_what_is_unloaded_is_out_of_memory(controlled, reading, lanes: int) -> None:
    opened: dict[str, list[weakref.ref[OnnxNetwork]]] = {}

    def open_network(path, manifest, device, batch_sizes) -> OnnxNetwork:
        network = OnnxNetwork(path, manifest, device, batch_sizes)
        opened.setdefault(manifest.name, []).append(weakref.ref(network))
        return network

    running, tensors = controlled(open_network, lanes=lanes)
    for call in [tensors.stub.ModelInfer.future(tensors.pixels(PIXELS)) for _ in range(100)]:
        call.result()  # by every lane, some of which then wait with nothing to do
    tensors.stub.RepositoryModelUnload(Unload(model_name=MODEL))
    gc.collect()
    assert [one() for one in opened[MODEL]] == [None]
    assert opened[OTHERS[0]][0]() is not None
    assert reading(running, "modelzoo_queue_images", model=MODEL) == 0
    state = {"model": MODEL, "version": "1", "state": "unloaded"}
    assert reading(running, "modelzoo_model_state", **state) == 1
    with urllib.request.urlopen(running.metrics_url) as response:
        page = response.read().decode()
    assert f'modelzoo_model_memory_bytes{{device="cpu",model="{MODEL}"' not in page
    assert f'modelzoo_model_memory_bytes{{device="cpu",model="{OTHERS[0]}"' in page


def test_a_new_version_takes_over_while_the_old_one_answers_what_it_accepted(
    controlled, gates, scratch_repository: Path, wait_for
) -> None:
    running, tensors = controlled(gates, lanes=2)  # the second loads while the first is held
    old = gates[MODEL]
    accepted = held(tensors, old)
    publish(scratch_repository, 2)
    tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
    assert states(tensors)[MODEL] == ("2", "READY")
    assert answered_by(tensors) == "2"
    assert not accepted.done()
    old.gate.set()
    response = accepted.result()
    assert (response.model_version, len(tensors.probabilities(response))) == ("1", 1)
    for name in (MODEL, *OTHERS):
        assert tensors.stub.ModelReady(messages.ModelReadyRequest(name=name)).ready
    code, details = tensors.refusal(
        tensors.stub.ModelInfer, tensors.pixels(PIXELS, messages.ModelInferRequest(model_version="1"))
    )
    assert (code, details) == ("NOT_FOUND", "lenet5-digits has no version 1 here, only 2")

    def of_the_old_one() -> bool:
        with urllib.request.urlopen(running.metrics_url) as response:
            return f'model="{MODEL}",state="ready",version="1"' in response.read().decode()

    wait_for(lambda: not of_the_old_one())


def test_a_new_version_that_fails_leaves_the_old_one_serving(controlled, scratch_repository: Path) -> None:
    running, tensors = controlled()
    (publish(scratch_repository, 2) / "model.onnx").write_bytes(b"damaged")
    code, details = tensors.refusal(tensors.stub.RepositoryModelLoad, Load(model_name=MODEL))
    assert code == "UNAVAILABLE"
    assert details.startswith("lenet5-digits is failed: model.onnx is not the file that was published")
    assert states(tensors)[MODEL] == ("1", "READY")
    assert answered_by(tensors) == "1"
    with grpc.insecure_channel(running.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=MODEL))
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    publish(scratch_repository, 3)
    tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
    assert answered_by(tensors) == "3"


def test_a_model_that_failed_is_loaded_when_it_is_repaired(controlled, scratch_repository: Path) -> None:
    network = scratch_repository / MODEL / "1/model.onnx"
    content = network.read_bytes()
    network.unlink()
    _, tensors = controlled()
    for _ in range(2):
        assert states(tensors)[MODEL] == ("1", "UNAVAILABLE")
        code, details = tensors.refusal(tensors.stub.RepositoryModelLoad, Load(model_name=MODEL))
        assert (code, "model.onnx cannot be read" in details) == ("UNAVAILABLE", True)
    network.write_bytes(content)
    tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
    assert answered_by(tensors) == "1"


def test_a_model_that_came_after_the_start_is_loaded(controlled, scratch_repository: Path) -> None:
    elsewhere = scratch_repository.parent / "elsewhere"
    (scratch_repository / MODEL).rename(elsewhere)
    _, tensors = controlled()
    assert set(states(tensors)) == set(OTHERS)
    elsewhere.rename(scratch_repository / MODEL)
    tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
    assert answered_by(tensors) == "1"


@pytest.mark.parametrize(
    "name", ["lenet6", "", ".", "..", "../models/lenet5-digits", "/etc", "x" * 9000, "\0"]
)
def test_what_is_not_in_the_repository_is_not_found(controlled, name: str) -> None:
    _, tensors = controlled()
    for call, request in (
        (tensors.stub.RepositoryModelLoad, Load(model_name=name)),
        (tensors.stub.RepositoryModelUnload, Unload(model_name=name)),
    ):
        assert tensors.refusal(call, request)[0] == "NOT_FOUND"
    assert answered_by(tensors) == "1"


def test_an_artifact_is_served_as_it_was_published(controlled) -> None:
    _, tensors = controlled()
    for name in ("config", "file:1/model.onnx", "unload_dependents"):
        request = Load(model_name=MODEL)
        request.parameters[name].string_param = "{}"
        code, details = tensors.refusal(tensors.stub.RepositoryModelLoad, request)
        assert (code, details) == (
            "INVALID_ARGUMENT",
            "parameters: an artifact is served as it was published",
        )
    request = Unload(model_name=MODEL)
    request.parameters["colour"].string_param = "green"
    assert tensors.refusal(tensors.stub.RepositoryModelUnload, request)[0] == "INVALID_ARGUMENT"
    for call, request in (
        (tensors.stub.RepositoryIndex, messages.RepositoryIndexRequest(repository_name="r")),
        (tensors.stub.RepositoryModelLoad, Load(repository_name="r", model_name=MODEL)),
        (tensors.stub.RepositoryModelUnload, Unload(repository_name="r", model_name=MODEL)),
    ):
        assert tensors.refusal(call, request) == ("UNIMPLEMENTED", "there is one repository, without a name")
    assert answered_by(tensors) == "1"


def test_a_change_whose_client_is_gone_is_finished(controlled, gates, wait_for) -> None:
    _, tensors = controlled(gates)
    network = gates[MODEL]
    accepted = held(tensors, network)
    unloading = tensors.stub.RepositoryModelUnload.future(Unload(model_name=MODEL))
    wait_for(lambda: states(tensors)[MODEL] == ("1", "UNLOADING"))
    unloading.cancel()
    network.gate.set()
    accepted.result()
    wait_for(lambda: states(tensors)[MODEL] == ("1", "UNAVAILABLE"))
    tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
    assert answered_by(tensors) == "1"


def test_many_changes_at_once_leave_every_model_in_one_state(controlled) -> None:
    _, tensors = controlled()
    loads = [(tensors.stub.RepositoryModelLoad, Load(model_name=name)) for name in (MODEL, *OTHERS)]
    unloads = [(tensors.stub.RepositoryModelUnload, Unload(model_name=name)) for name in (MODEL, *OTHERS)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(call, request) for call, request in (loads + unloads) * 3]
        for one in done:
            one.result()
    assert set(states(tensors).values()) <= {("1", "READY"), ("1", "UNAVAILABLE")}
    tensors.stub.RepositoryModelLoad(Load(model_name=MODEL))
    assert answered_by(tensors) == "1"


def test_a_server_that_stops_changes_nothing_any_more(controlled, gates, wait_for) -> None:
    running, tensors = controlled(gates)
    network = gates[MODEL]
    accepted = held(tensors, network)
    with ThreadPoolExecutor() as pool:
        stopping = pool.submit(running.stop)
        wait_for(lambda: running.repository.draining)
        for call, request in (
            (tensors.stub.RepositoryModelLoad, Load(model_name=MODEL)),
            (tensors.stub.RepositoryModelUnload, Unload(model_name=MODEL)),
        ):
            assert tensors.refusal(call, request) == ("UNAVAILABLE", "the server is stopping")
        network.gate.set()
        assert len(tensors.probabilities(accepted.result())) == 1
        stopping.result()
