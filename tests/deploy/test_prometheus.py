"""A real Prometheus scrapes a real server, and every query of the dashboard gets an answer."""

import json
import math
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = "deploy/prometheus/prometheus.yml"
DEADLINE_S = 60.0
# What Grafana puts in for its variables when everything is chosen.
VARIABLES = {"$instance": ".+", "$model": ".+", "$__rate_interval": "10s"}
# Metrics that are not there in this test, by the beginning of their names, each with its reason.
ABSENT = {
    "modelzoo_device_memory_": "only where the server runs on a GPU",
    "modelzoo_frontend_resident_memory_bytes": "only where the server has front ends",
    "modelzoo_frontend_cpu_seconds_total": "only where the server has front ends",
}


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask its API; None while it does not listen yet."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with self._opener.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:  # not ready
                    return None
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return None

    def has_answer(self, expr: str) -> bool:
        """Tell whether a query gives a number; a quantile of nothing gives none."""
        data = self.ask("query", query=expr)
        return data is not None and any(math.isfinite(float(one["value"][1])) for one in data["result"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def filled_in(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.fixture
def prometheus(tool, server, root: Path, tmp_path: Path) -> Iterator[Prometheus]:
    """Prometheus with the committed configuration, but for where the server is and how often it is asked."""
    program = tool("prometheus")
    config = yaml.safe_load((root / CONFIG).read_text("utf-8"))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (job,) = config["scrape_configs"]
    address = urllib.parse.urlsplit(server.metrics_url).netloc
    job["static_configs"] = [{"targets": [address]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    port = free_port()
    command = [
        program,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Prometheus(f"http://127.0.0.1:{port}")
            assert process.poll() is None, (tmp_path / "log").read_text("utf-8")
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_the_configuration_passes_promtool(promtool, root: Path) -> None:
    done = promtool("config", root / CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_refuses_a_configuration_with_an_unknown_key(promtool, root: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "prometheus.yml"
    spoilt.write_text((root / CONFIG).read_text("utf-8").replace("scrape_timeout", "patience"), "utf-8")
    done = promtool("config", spoilt)
    assert done.returncode != 0
    assert "patience" in done.stdout + done.stderr


def test_prometheus_scrapes_the_name_and_port_that_the_servers_have(root: Path) -> None:
    (job,) = yaml.safe_load((root / CONFIG).read_text("utf-8"))["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    services = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))["services"]
    for service in (services["server"], services["server-gpu"]):
        assert name in service["networks"]["default"]["aliases"]
        assert f"127.0.0.1:{port}:{port}" in service["ports"]


@pytest.mark.usefixtures("traffic")
def test_every_query_of_the_dashboard_is_answered(
    prometheus: Prometheus, panels: list[dict[str, Any]], dashboard: dict[str, Any]
) -> None:
    asked = {filled_in(target["expr"]) for panel in panels for target in panel["targets"]}
    waiting = {expr for expr in asked if not any(name in expr for name in ABSENT)}
    deadline_s = time.monotonic() + DEADLINE_S
    while waiting := {expr for expr in waiting if not prometheus.has_answer(expr)}:
        assert time.monotonic() < deadline_s, f"no answer to {waiting}"
        time.sleep(0.2)  # between two looks, not for the result
    for name in ABSENT:
        absent = [expr for expr in asked if name in expr]
        assert absent, name
        assert not any(map(prometheus.has_answer, absent)), name
    assert not prometheus.has_answer("modelzoo_no_such_metric")

    for variable in dashboard["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        assert prometheus.ask(f"label/{label}/values", **{"match[]": filled_in(metric)}), variable["name"]
