"""The recipe of the images, read; no image is built here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

TRAINING = {"torch", "torchvision", "onnx", "onnxscript", "scikit-learn", "matplotlib"}


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    """The recipe, continued lines joined and comments taken out."""
    text = (root / "deploy/Dockerfile").read_text("utf-8")
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)  # would fetch another image to read this one
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")


def copied(dockerfile: str) -> list[str]:
    """List what is copied out of the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def required(root: Path, extras: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, root / "deploy/requirements.py", extras]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_image_is_built_of_what_the_wheel_packs_and_nothing_else(root: Path, dockerfile: str) -> None:
    build = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    rooms = {Path(package).parts[0] for package in build["targets"]["wheel"]["packages"]}
    assert set(copied(dockerfile)) == rooms | {"pyproject.toml", "README.md", "deploy/requirements.py"}


def test_the_build_is_given_what_it_copies_and_nothing_else(root: Path, dockerfile: str) -> None:
    lines = (root / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {line[1:] for line in patterns if line.startswith("!")} == set(copied(dockerfile))


def test_the_image_runs_as_the_user_that_compose_and_the_volume_have(root: Path, dockerfile: str) -> None:
    (user,) = re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)
    uid, gid = user.split(":")
    assert int(uid) > 0
    assert f"install --directory --owner={uid} --group={gid} /models" in dockerfile
    compose = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))
    assert compose["x-modelzoo"]["user"] == user


def test_both_stages_stand_on_the_same_slim_python_of_a_fixed_version(dockerfile: str) -> None:
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", bases[0])


@pytest.mark.parametrize("extras", ["server", "server,cuda"])
def test_a_serving_image_asks_for_no_training_library(root: Path, extras: str) -> None:
    done = required(root, extras)
    assert done.returncode == 0, done.stderr
    names = {re.match(r"[\w.-]+", line).group() for line in done.stdout.splitlines()}
    assert {"grpcio", "onnxruntime-gpu", "prometheus-client"} <= names
    assert not names & TRAINING


def test_the_export_image_asks_for_the_training_libraries(root: Path) -> None:
    assert {
        re.match(r"[\w.-]+", line).group() for line in required(root, "export").stdout.splitlines()
    } >= TRAINING


def test_an_image_with_an_unknown_extra_is_not_built(root: Path) -> None:
    done = required(root, "sever")
    assert done.returncode != 0
    assert "sever" in done.stderr
