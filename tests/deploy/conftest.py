"""What the tests of the deployment share: the tools they run, the server's metrics, the dashboard."""

import json
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from client import Client, ClientError
from server.frontends.metrics import FrontendProcessCollector
from server.observability.gpu_memory import DeviceMemoryCollector

ROOT = Path(__file__).parent.parent.parent


def fetch(url: str, timeout_s: float = 10.0) -> bytes:
    """Get a page of this machine, whatever proxy the environment names."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=timeout_s) as answer:
        return answer.read()


@dataclass(frozen=True)
class Family:
    """A metric as a reader of the documentation knows it."""

    name: str
    type: str
    labels: frozenset[str]


def families(found: Iterator[Metric]) -> dict[str, Family]:
    """List metrics by the names that they are asked for by; of a histogram, the common part."""
    listed = {}
    for metric in found:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = frozenset(label for sample in metric.samples for label in sample.labels)
        listed[name] = Family(name, metric.type, labels - {"le"})
    return listed


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Finds a program of Debian's package `prometheus`; only outside of CI may it be missing."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            reason = f"{name} is not installed; Debian's package `prometheus` has it"
            if "CI" in os.environ:
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find


@pytest.fixture
def promtool(tool: Callable[[str], str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs promtool's checks."""
    program = tool("promtool")

    def check(*arguments: str | Path, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = [program, "check", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    return check


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    return json.loads((ROOT / "deploy/grafana/dashboards/modelzoo.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The dashboard's panels, without the headings of its rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def ask_everything(client: Client) -> None:
    """Ask every model once, with one picture and with three, and make two mistakes."""
    for status in client.list_models():
        wanted = client.get_model(status.name).manifest.input
        black = np.zeros((wanted.height, wanted.width, wanted.channels), np.uint8)
        client.classify(status.name, [black])
        client.classify(status.name, [black] * 3)
    for model, picture in ((status.name, b"not a picture"), ("no-such-model", b"")):
        with pytest.raises(ClientError):
            client.classify(model, [picture])


@pytest.fixture
def metrics_page(server, client) -> str:
    """The server's metrics after some traffic and some errors."""
    ask_everything(client)
    return fetch(server.metrics_url).decode()


@pytest.fixture
def traffic(server) -> Iterator[None]:
    """Requests to every model, and mistakes, one after the other for as long as the test runs."""
    enough = threading.Event()
    failures: list[Exception] = []

    def go_on() -> None:
        with server.client() as client:
            while not enough.is_set():
                try:
                    ask_everything(client)
                except Exception as error:
                    failures.append(error)
                    raise

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    enough.set()
    thread.join()
    assert failures == []


@pytest.fixture
def exported_metrics(metrics_page: str) -> dict[str, Family]:
    """Every metric that a server exports, the ones of a GPU and of front ends included."""
    gpu = DeviceMemoryCollector("cuda:0", used_bytes=lambda: 1, total_bytes=lambda: 2)
    processes = FrontendProcessCollector(lambda: {1: os.getpid()})
    more = families(gpu.collect()) | families(processes.collect())
    return families(text_string_to_metric_families(metrics_page)) | more
