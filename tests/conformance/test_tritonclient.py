"""An unmodified tritonclient, in a process of its own, asks a real server everything that it can."""

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import pipeline
from export.data import datasets
from export.training import train

pytestmark = pytest.mark.slow

VERSION = "2.73.0"
REQUIREMENT = f"tritonclient[grpc]=={VERSION}"
DOCUMENT = Path(__file__).parent.parent.parent / "docs/open_inference.md"
ASK = Path(__file__).with_name("ask.py")
MODEL, OTHERS = "lenet5-digits", ["simple_cnn-digits", "two_block_cnn-digits"]


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with tritonclient, which is kept in pytest's cache."""
    folder = Path(request.config.cache.mkdir(f"tritonclient-{VERSION}"))
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder)
        venv.create(folder, with_pip=True)
        command = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"pip cannot install {REQUIREMENT}: {(done.stderr.splitlines() or [''])[-1]}"
            if "CI" in os.environ:
                pytest.fail(reason)
            pytest.skip(reason)
        complete.touch()
    return folder / "bin/python"


@pytest.fixture(scope="module")
def asked(exported: dict[str, pipeline.Exported]) -> np.ndarray:
    """Five digits as lenet5 sees them, uint8 [5, 32, 32, 1]."""
    one = exported[MODEL].manifest
    digits = datasets.load("digits", seed=0, cache=Path()).test
    return digits.fitted(one.input, one.preprocessing).images[:5]


@pytest.fixture(scope="module")
def probabilities(asked: np.ndarray, exported: dict[str, pipeline.Exported]) -> np.ndarray:
    """PyTorch's answers to them, float32 [5, 10]."""
    return train.probabilities(exported[MODEL].served, asked)


@pytest.fixture(scope="module", params=[False, True], ids=["identity only", "compressed"])
def accepts_compressed(request: pytest.FixtureRequest) -> bool:
    """Whether the server takes compressed messages: all else is the same."""
    return bool(request.param)


@pytest.fixture(scope="module")
def report(
    accepts_compressed: bool,
    server,
    repository: Path,
    python: Path,
    asked: np.ndarray,
    exported: dict[str, pipeline.Exported],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What the server said, as tritonclient understood it."""
    settings = {"repository": repository, "grpc_port": 0, "metrics_port": 0, "device": "cpu"}
    settings |= {"allow_client_shm": True, "allow_model_control": True}
    settings["accept_compressed"] = accepts_compressed
    settings["model_batch_sizes"] = {MODEL: [32]}  # whatever the machine measures
    running = type(server)(type(server.settings)(**settings))
    arrays = tmp_path_factory.mktemp("conformance") / "arrays.npz"
    example = (exported[MODEL].folder / "card/example.png").read_bytes()
    files = {f"file{number}": np.frombuffer(example, np.uint8) for number in range(3)}
    np.savez(arrays, images=asked, **files)
    try:
        # -I: neither our modules nor our environment
        command = [python, "-I", ASK, running.address, arrays]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    finally:
        running.stop()
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_server_and_the_model_describe_themselves(report: dict[str, Any]) -> None:
    told = report["describe"]
    assert [told[name] for name in ("live", "ready", "model ready", "version ready")] == [True] * 4
    assert [told["other version ready"], told["other model ready"]] == [False, False]
    assert told["server"]["name"] == "modelzoo"
    assert {"classification", "statistics", "model_repository", "system_shared_memory"} < set(
        told["server"]["extensions"]
    )
    assert told["metadata"] == {
        "name": MODEL,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": ["-1", "32", "32", "1"]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "10"]}],
    }
    config = told["config"]["config"]
    assert (config["max_batch_size"], "dynamic_batching" in config) == (32, True)
    [given], [gives] = config["input"], config["output"]
    assert (given["data_type"], given["dims"]) == ("TYPE_UINT8", ["32", "32", "1"])
    assert (gives["data_type"], gives["dims"], gives["label_filename"]) == ("TYPE_FP32", ["10"], "labels.txt")


def test_compressed_messages_are_answered_only_where_they_are_accepted(
    report: dict[str, Any], probabilities: np.ndarray, accepts_compressed: bool
) -> None:
    if accepts_compressed:
        np.testing.assert_allclose(report["infer"]["compressed"], probabilities, atol=1e-5)
    else:
        assert report["infer"]["compressed"] == [
            "StatusCode.UNIMPLEMENTED",
            "Compression algorithm 'gzip' is disabled.",
        ]


@pytest.mark.parametrize("way", ["probabilities", "by name", "with options", "later"])
def test_every_way_of_asking_gets_the_same_probabilities(
    report: dict[str, Any], probabilities: np.ndarray, way: str
) -> None:
    np.testing.assert_allclose(report["infer"][way], probabilities, atol=1e-5)


def test_the_id_comes_back(report: dict[str, Any]) -> None:
    assert (report["infer"]["response"]["id"], report["infer"]["later id"]) == ("7", "9")
    assert report["infer"]["response"]["model_version"] == "1"


def test_encoded_pictures_are_answered(
    report: dict[str, Any], exported: dict[str, pipeline.Exported]
) -> None:
    rows = np.array(report["infer"]["pictures"])
    assert rows.shape == (3, 10)
    assert rows.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert report["infer"]["pictures in a column"] == report["infer"]["pictures"]


def test_a_classification_gives_labels(report: dict[str, Any], probabilities: np.ndarray) -> None:
    for texts, row in zip(report["infer"]["best"], probabilities, strict=True):
        indices = np.argsort(-row)[:2]
        assert [text.split(":")[1:] for text in texts] == [[str(index)] * 2 for index in indices]
        assert [float(text.split(":")[0]) for text in texts] == pytest.approx(row[indices].tolist(), abs=2e-5)


def test_a_stream_answers_and_refuses(report: dict[str, Any], probabilities: np.ndarray) -> None:
    told = report["stream"]
    assert told["ids"] == list(range(20))
    assert told["all the same"]
    np.testing.assert_allclose(told["probabilities"], probabilities, atol=1e-5)
    assert told["refused"] == "no model is called 'lenet6'"
    assert told["after"] == "after"
    assert told["ending"] == ["StatusCode.NOT_FOUND", "no model is called 'lenet6'"]


def test_shared_memory_carries_tensors_both_ways(report: dict[str, Any], probabilities: np.ndarray) -> None:
    told = report["share"]
    sizes = {name: int(region["byte_size"]) for name, region in told["status"]["regions"].items()}
    assert sizes == {"in": 5 * 32 * 32, "out": 5 * 10 * 4}
    np.testing.assert_allclose(told["probabilities"], probabilities, atol=1e-5)
    [output] = told["outputs"]
    assert output["parameters"]["shared_memory_region"] == {"string_param": "out"}
    assert told["registered again"][0] == "StatusCode.ALREADY_EXISTS"
    assert told["gone"] == ["StatusCode.INVALID_ARGUMENT", "inputs[0]: no region is called 'in'"]
    assert (told["left"], told["cuda"]) == ({}, {})
    assert told["cuda register"][0] == "StatusCode.UNIMPLEMENTED"


def test_models_are_unloaded_and_loaded(report: dict[str, Any], probabilities: np.ndarray) -> None:
    told = report["control"]

    def states(index: dict[str, Any]) -> dict[str, str]:
        return {model["name"]: model["state"] for model in index["models"]}

    assert states(told["unloaded"]["index"]) == {MODEL: "UNAVAILABLE"} | dict.fromkeys(OTHERS, "READY")
    assert not told["unloaded"]["ready"]
    assert told["unloaded"]["infer"] == ["StatusCode.UNAVAILABLE", "lenet5-digits is unloaded"]
    assert states(told["index"]) == dict.fromkeys([MODEL, *OTHERS], "READY")
    np.testing.assert_allclose(told["probabilities"], probabilities, atol=1e-5)
    for name in ("config refused", "files refused"):
        assert told[name][0] == "StatusCode.INVALID_ARGUMENT"
    assert told["unknown"][0] == "StatusCode.NOT_FOUND"


def test_statistics_rise(report: dict[str, Any], accepts_compressed: bool) -> None:
    before, after = (told["model_stats"][0] for told in report["statistics"])
    assert (before["name"], before["version"]) == (MODEL, "1")
    assert "inference_count" not in before  # zero is not said
    ways = 4 + accepts_compressed  # one of them is compressed
    answered = ways + 2 + 1 + 21 + 1  # and pictures, best, stream, shared memory
    stats = after["inference_stats"]
    assert int(stats["success"]["count"]) == answered
    assert int(after["inference_count"]) == (answered - 2) * 5 + 2 * 3
    for name in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert int(stats[name]["count"]) == answered
    assert int(stats["fail"]["count"]) >= 4
    assert 0 < int(after["execution_count"]) <= int(after["inference_count"])  # a request may be split


def test_what_is_wrong_is_refused_with_the_status_that_says_so(report: dict[str, Any]) -> None:
    codes = {name: code.removeprefix("StatusCode.") for name, (code, _) in report["refuse"].items()}
    assert codes == {
        "model": "NOT_FOUND",
        "version": "NOT_FOUND",
        "no number": "INVALID_ARGUMENT",
        "type": "INVALID_ARGUMENT",
        "name": "INVALID_ARGUMENT",
        "output": "INVALID_ARGUMENT",
        "traces": "UNIMPLEMENTED",
        "logs": "UNIMPLEMENTED",
        "metadata": "NOT_FOUND",
        "late": "DEADLINE_EXCEEDED",
    }


def test_the_documented_example_runs(server, python: Path, repository: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    code = code.replace("127.0.0.1:8001", server.address).replace("models/", f"{repository}/")
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(\d 0\.\d{6}\n){3}", done.stdout)
