"""docker-compose.yml, read by the real Compose; no container runs here."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.config import Settings
from zoo import catalog

SERVERS = ("server", "server-gpu")
OURS = (*SERVERS, "export")
EVERY_PROFILE = ("--profile", "gpu", "--profile", "export")
Compose = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def compose(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Runs the Compose that is installed beside this Python, with no settings but the file's."""
    home = tmp_path_factory.mktemp("docker")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_CONFIG": str(home)}
    program = Path(sys.executable).with_name("docker-compose")

    def run(*arguments: str, file: Path = root / "docker-compose.yml") -> "subprocess.CompletedProcess[str]":
        command = [program, "--project-directory", root, "--file", file, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def services(compose: Compose) -> dict[str, dict[str, Any]]:
    """Every service as Compose understands it, anchors resolved."""
    done = compose(*EVERY_PROFILE, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def seconds(duration: str) -> int:
    """Read a duration as Compose writes it: ``1m30s``."""
    parts = re.findall(r"(\d+)([hms])", duration)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


@pytest.mark.parametrize("profiles", [(), ("gpu",), ("export",), ("gpu", "export")], ids="+".join)
def test_compose_accepts_the_file(compose: Compose, profiles: tuple[str, ...]) -> None:
    done = compose(*(word for name in profiles for word in ("--profile", name)), "config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("right", "wrong"), [("mem_limit: 4g", "memory_limit: 4g"), ("capabilities: [gpu]", "capability: [gpu]")]
)
def test_compose_refuses_a_copy_with_an_unknown_key(
    compose: Compose, root: Path, tmp_path: Path, right: str, wrong: str
) -> None:
    text = (root / "docker-compose.yml").read_text("utf-8")
    assert right in text
    (tmp_path / "spoilt.yml").write_text(text.replace(right, wrong), "utf-8")
    assert compose(*EVERY_PROFILE, "config", "--quiet", file=tmp_path / "spoilt.yml").returncode != 0


def test_without_a_profile_one_server_and_the_monitoring_start(compose: Compose) -> None:
    assert set(compose("config", "--services").stdout.split()) == {"server", "prometheus", "grafana"}


def test_a_gpu_server_with_its_monitoring_brings_no_second_server(compose: Compose) -> None:
    chosen = ("server-gpu", "prometheus", "grafana")
    done = compose("--profile", "gpu", "config", "--format", "json", *chosen)
    assert set(json.loads(done.stdout)["services"]) == set(chosen)


def test_every_container_is_hardened_and_bounded(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        user, _, group = service["user"].partition(":")
        assert int(user) > 0, name
        assert group.isdigit(), name
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert int(service["mem_limit"]) > 0, name
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name


def test_ports_are_published_on_the_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service.get("ports", []) for name, service in services.items()}
    assert all(port["host_ip"] == "127.0.0.1" for published in ports.values() for port in published)
    targets = {name: {port["target"] for port in published} for name, published in ports.items()}
    served = {Settings.model_fields[port].default for port in ("grpc_port", "metrics_port")}
    assert targets == {
        "server": served,
        "server-gpu": served,
        "export": set(),
        "prometheus": {9090},
        "grafana": {3000},
    }


def test_our_images_are_built_here_and_the_others_have_exact_tags(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        if name in OURS:
            assert service["build"]["dockerfile"] == "deploy/Dockerfile", name
            assert "image" not in service, name  # else Compose would first ask a registry for a stranger's
        else:
            assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"]), name


def test_only_the_export_image_has_the_training_libraries(services: dict[str, dict[str, Any]]) -> None:
    extras = {name: services[name]["build"]["args"]["EXTRAS"].split(",") for name in OURS}
    assert extras == {"server": ["server"], "server-gpu": ["server", "cuda"], "export": ["export"]}


@pytest.mark.parametrize("name", SERVERS)
def test_the_environment_of_a_server_holds_settings_that_it_has(services, name: str) -> None:
    environment = services[name]["environment"]
    told = {
        key.removeprefix("MODELZOO_").lower(): value
        for key, value in environment.items()
        if key.startswith("MODELZOO_")
    }
    settings = Settings(**told)
    assert (settings.host, settings.repository, settings.log_format) == ("0.0.0.0", Path("/models"), "json")
    assert settings.device == ("cpu" if name == "server" else "cuda:0")
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_has_longer_to_stop_than_it_may_take(services, name: str) -> None:
    assert seconds(services[name]["stop_grace_period"]) > Settings.model_fields["grace_s"].default


PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"), "http://127.0.0.1:1")


def test_the_health_check_passes_only_while_a_server_serves_and_says_why_not(
    services, server, start_server, tmp_path: Path
) -> None:
    first, second = (services[name]["healthcheck"]["test"] for name in SERVERS)
    assert first == second
    marker, program, options, code = first
    assert (marker, program, options) == ("CMD", "python", "-ISc")  # isolated, and without site-packages

    def ask(port: int) -> tuple[int, str]:
        environment = os.environ | PROXIES | {"MODELZOO_METRICS_PORT": str(port)}
        command = [sys.executable, options, code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    without_models = start_server(repository=tmp_path)
    assert ask(server.server.metrics_port) == (0, "ok\n")
    assert ask(without_models.server.metrics_port) == (1, "no model is ready\n")
    assert ask(1) == (1, "")  # no server listens


@pytest.mark.parametrize("name", SERVERS)
def test_the_health_check_asks_the_port_that_the_server_has(services, name: str) -> None:
    default = Settings.model_fields["metrics_port"].default
    assert f'environ.get("MODELZOO_METRICS_PORT", {default})' in services[name]["healthcheck"]["test"][-1]


def test_the_image_compiles_what_the_health_check_imports(services, root: Path) -> None:
    imports = services["server"]["healthcheck"]["test"][-1].splitlines()[0]
    assert f'RUN python -ISc "{imports}"' in (root / "deploy/Dockerfile").read_text("utf-8")


def test_models_are_written_by_the_export_and_only_read_by_servers(services) -> None:
    volumes = {name: services[name]["volumes"] for name in OURS}
    assert all(
        [(v["type"], v["source"], v["target"]) for v in vs] == [("volume", "models", "/models")]
        for vs in volumes.values()
    )
    assert {name: vs[0].get("read_only", False) for name, vs in volumes.items()} == {
        "server": True,
        "server-gpu": True,
        "export": False,
    }
    assert len({services[name]["user"] for name in OURS}) == 1
    assert services["export"]["environment"]["MODELZOO_REPOSITORY"] == "/models"


def test_the_export_makes_the_digits_models_without_a_network(services) -> None:
    verb, *names = services["export"]["command"]
    assert verb == "export"
    assert [catalog.find(name).name for name in names] == ["simple_cnn", "two_block_cnn", "lenet5"]
    assert services["export"]["network_mode"] == "none"


def test_only_the_gpu_server_reserves_a_gpu(services: dict[str, dict[str, Any]]) -> None:
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if service.get("deploy")
    }
    assert reserved == {"server-gpu": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}


def test_grafana_knows_viewers_only(services: dict[str, dict[str, Any]]) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_every_file_that_is_mounted_exists(services: dict[str, dict[str, Any]]) -> None:
    mounted = [v for service in services.values() for v in service.get("volumes", []) if v["type"] == "bind"]
    assert mounted
    assert all(Path(volume["source"]).is_dir() and volume["read_only"] for volume in mounted)
