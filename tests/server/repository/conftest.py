"""Servers of small artifacts, and what they say of their models by every way there is."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from client import Client, ClientError
from modelzoo.v1 import classifier_pb2, open_inference_pb2_grpc
from modelzoo.v1 import open_inference_pb2 as messages
from server.config import Settings
from server.runtime.network import OnnxNetwork, OpenNetwork
from tests.conftest import Running
from tests.server.conftest import GatedNetwork, Gates
from tests.server.progress import wait_for
from tests.server.repository import small

State = classifier_pb2.ModelState


class Served:
    """A server of a folder of its own, on which everything may be done."""

    def __init__(
        self,
        repository: Path,
        frontends: int = 0,
        open_network: OpenNetwork = OnnxNetwork,
        **settings: object,
    ) -> None:
        self.repository = repository
        defaults = {"grpc_port": 0, "metrics_port": 0, "device": "cpu", "allow_model_control": True}
        defaults |= {"repository": repository, "frontends": frontends, "max_batch_size": 2}
        self.running = Running(Settings(**(defaults | settings)), open_network)
        if self.running.error is not None:
            raise self.running.error
        self._stack = ExitStack()
        self.client: Client = self._stack.enter_context(self.running.client())
        channel = self._stack.enter_context(grpc.insecure_channel(self.running.address))
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def stop(self) -> None:
        self._stack.close()
        self.running.stop()

    def load(self, name: str) -> str:
        """Load a model; give what is wrong, or nothing."""
        return self._error(
            self.stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name=name)
        )

    def unload(self, name: str) -> str:
        return self._error(
            self.stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name=name)
        )

    def classify(self, name: str) -> int:
        """Have a model answer; give its version, 0 where it does not serve."""
        try:
            return self.client.classify_raw(name, [small.BLANK]).version
        except ClientError as error:
            if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                return 0
            raise

    def index(self) -> dict[str, messages.RepositoryIndexResponse.ModelIndex]:
        return {one.name: one for one in self.stub.RepositoryIndex(messages.RepositoryIndexRequest()).models}

    def listed(self) -> dict[str, classifier_pb2.ModelStatus]:
        statuses = self.client.list_models()
        assert [one.name for one in statuses] == sorted(one.name for one in statuses)
        return {one.name: one for one in statuses}

    def is_serving(self, name: str) -> bool | None:
        """Ask the health service; None where it has no entry."""
        try:
            answer = self.health.Check(health_pb2.HealthCheckRequest(service=name))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        with urllib.request.urlopen(self.running.metrics_url) as response:
            page = response.read().decode()
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        ]

    def reading(self, series: str, **labels: str) -> float:
        [value] = [value for name, its, value in self.samples() if name == series and its == labels]
        return value

    def logged(self, event: str) -> list[dict[str, str]]:
        lines = map(json.loads, self.running.log.getvalue().splitlines())
        return [line for line in lines if line["event"] == event]

    def require_agreement(self) -> dict[str, classifier_pb2.ModelStatus]:
        """Require that list, index, health and metrics say the same once all is quiet; give the list."""
        wait_for(lambda: not self._is_draining())  # a version that was replaced leaves in its own time
        index, listed, samples = self.index(), self.listed(), self.samples()
        assert list(index) == list(listed)
        for name, status in listed.items():
            ready = status.state == State.MODEL_STATE_READY
            assert index[name].version == str(status.version)
            assert (index[name].state == "READY") == ready
            assert self.is_serving(name) == ready
            assert (self.classify(name) == status.version) == ready
        states = {
            (labels["model"], labels["version"], labels["state"])
            for name, labels, value in samples
            if name == "modelzoo_model_state" and value == 1
        }
        assert states == {
            (name, str(status.version), State.Name(status.state).removeprefix("MODEL_STATE_").lower())
            for name, status in listed.items()
        }
        mentioned = {labels["model"] for _, labels, _ in samples if "model" in labels}
        assert mentioned - {"_unknown"} == set(listed)
        versions = {
            (labels["model"], labels["version"])
            for _, labels, _ in samples
            if labels.keys() >= {"model", "version"}
        }
        assert versions == {(name, str(status.version)) for name, status in listed.items()}
        return listed

    def _is_draining(self) -> bool:
        return any(
            name == "modelzoo_model_state" and labels["state"] == "draining" and value == 1
            for name, labels, value in self.samples()
        )

    def _error(self, call: Callable[..., object], request: object) -> str:
        try:
            call(request)
        except grpc.RpcError as error:
            return error.details()
        return ""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves a folder, which is the test's; settings by name."""
    served: list[Served] = []

    def start(repository: Path | None = None, frontends: int = 0, **settings: object) -> Served:
        served.append(Served(repository or tmp_path, frontends, **settings))
        return served[-1]

    yield start
    for one in served:
        one.stop()


@pytest.fixture(params=[0, pytest.param(2, marks=pytest.mark.slow)])
def fronted(request: pytest.FixtureRequest) -> int:
    """How many front ends the server has."""
    return request.param


@pytest.fixture
def start_gated(tmp_path: Path) -> Iterator[Callable[[str], tuple[Served, GatedNetwork]]]:
    """Serves one model whose batches can be held."""
    gates, served = Gates(), []

    def start(name: str) -> tuple[Served, GatedNetwork]:
        small.publish(tmp_path, name)
        served.append(Served(tmp_path, open_network=gates, lanes=1, max_loop_s=0.0))
        return served[0], gates[name]

    yield start
    for network in gates.networks.values():
        network.open_all()
    for one in served:
        one.stop()
