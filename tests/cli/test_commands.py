"""The command line as a user meets it: real processes, exit codes, tables, one-line refusals."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from artifact import layout
from cli import main
from client.client import DEFAULT_ADDRESS
from server.config import Settings
from tests.cli.process import Run, Show, refused
from zoo.catalog import CATALOG

MODELS = ("lenet5-digits", "simple_cnn-digits", "two_block_cnn-digits")


@pytest.fixture
def picture(repository: Path) -> Path:
    return repository / MODELS[0] / "1" / layout.CARD / layout.EXAMPLE


def test_list_shows_every_row_of_the_catalog(run: Run, repository: Path) -> None:
    done = run("list", "--repository", repository)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [spec.name for spec in CATALOG]
    [lenet] = [line for line in lines if line.startswith("lenet5")]
    for part in ("1998", "61,706", " - ", "lenet5-digits/1", "LeCun"):
        assert part in lenet
    assert [line.split()[3] for line in lines if line.startswith("resnet50")] == ["yes"]


@pytest.mark.parametrize("command", [("list",), ("verify", "--device", "cpu"), ("status",)])
def test_a_narrow_terminal_cuts_no_name(command: Sequence[str], show: Show, repository: Path, server) -> None:
    place = ("--address", server.address) if command[0] == "status" else ("--repository", repository)
    lines = show(80, *command, *place)
    assert max(map(len, lines)) <= 80
    for name in MODELS:
        assert any(name in line.split() or f"{name}/1" in line.split() for line in lines)
    assert "…" not in "".join(lines)


def test_a_wide_terminal_shows_as_much_of_the_paper_as_there_is_room_for(
    show: Show, repository: Path
) -> None:
    lines = show(120, "list", "--repository", repository)
    assert len(lines) == 1 + len(CATALOG)
    assert max(map(len, lines)) <= 120
    [lenet] = [line for line in lines if line.startswith("lenet5")]
    assert "LeCun" in lenet
    assert lenet.endswith("…")


def test_status_tells_why_a_model_is_not_ready(show: Show, start_server, scratch_repository: Path) -> None:
    (scratch_repository / MODELS[0] / "1/labels.txt").write_text("0\n")
    lines = show(80, "status", "--address", start_server(repository=scratch_repository).address)
    [row, reason] = [line for line in lines if line.startswith(MODELS[0])]
    assert row.split()[1:3] == ["1", "FAILED"]
    assert reason.startswith(f"{MODELS[0]}: labels.txt is not the file that was published: 2 bytes, ")


def test_list_as_json_has_everything(run: Run, repository: Path) -> None:
    rows = {row["name"]: row for row in json.loads(run("list", "--json", "--repository", repository).stdout)}
    assert len(rows) == len(CATALOG)
    [exported] = rows["lenet5"]["exported"]
    assert (exported["name"], exported["version"]) == ("lenet5-digits", 1)
    assert 0.5 < exported["accuracy_ratio"] <= 1
    assert rows["resnet50"] | {"deviations": None} == {
        "name": "resnet50",
        "year": 2015,
        "parameters": 25_557_032,
        "paper": "Deep Residual Learning for Image Recognition",
        "link": "https://arxiv.org/abs/1512.03385",
        "deviations": None,
        "weights": ["digits", "mnist", "DIR", "imagenet"],
        "exported": [],
    }
    assert rows["simple_cnn"]["paper"] is None


def test_classify_prints_a_table_that_a_person_can_read(run: Run, server, picture: Path) -> None:
    done = run("classify", picture, picture, "--model", MODELS[0], "--address", server.address, "--top-k", 3)
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["picture", "label", "probability"]
    assert len(rows) == 6
    probabilities = [float(row.replace(str(picture), "").split()[1]) for row in rows[:3]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_classify_as_json_gives_labels_with_probabilities(run: Run, server, picture: Path) -> None:
    done = run("classify", picture, "--json", MODELZOO_MODEL=MODELS[0], MODELZOO_ADDRESS=server.address)
    [answer] = json.loads(done.stdout)
    assert answer["picture"] == str(picture)
    assert len(answer["labels"]) == 5
    assert answer["labels"][0].keys() == {"text", "index", "probability"}


def test_classify_names_the_file_that_is_no_picture(run: Run, server, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    done = run("classify", picture, text, "--model", MODELS[0], "--address", server.address)
    assert refused(done) == f"modelzoo: {text}: neither a JPEG, a PNG nor a WebP file"


def test_a_name_that_looks_like_markup_is_printed_as_it_is(
    run: Run, server, picture: Path, tmp_path: Path
) -> None:
    name = "digit[bold].png"
    (tmp_path / name).write_bytes(picture.read_bytes())
    done = run("classify", name, "--model", MODELS[0], "--address", server.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(f"{name} ")
    (tmp_path / name).write_text("no picture")
    line = refused(run("classify", name, "--model", MODELS[0], "--address", server.address))
    assert line == f"modelzoo: {name}: neither a JPEG, a PNG nor a WebP file"
    line = refused(run("classify", "no[bold].png", "--model", MODELS[0], "--address", server.address))
    assert line == "modelzoo: cannot read no[bold].png: no such file or directory"


def test_classify_refuses_what_cannot_be_asked(run: Run, server, picture: Path) -> None:
    asked = ("--address", server.address)
    assert "no model is called 'resnet'" in refused(run("classify", picture, "--model", "resnet", *asked))
    line = refused(run("classify", picture, "--model", MODELS[0], "--top-k", 11, *asked))
    assert line == "modelzoo: top_k: 11 labels, not 1 to 10"
    line = refused(run("classify", "nowhere.png", "--model", MODELS[0], *asked))
    assert line == "modelzoo: cannot read nowhere.png: no such file or directory"
    line = refused(run("classify", picture, "--model", MODELS[0], "--address", "127.0.0.1:1"))
    assert line == "modelzoo: no server answers at 127.0.0.1:1"


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify",),
        ("classify", "a.png"),
        ("train",),
        ("serve", "--grpc-port", "many"),
        ("classify", "a.png", "--model", "m", "--top-k", "some"),
        ("export",),
    ],
)
def test_a_wrong_command_line_exits_2_with_its_usage(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_status_shows_models_and_states(run: Run, server) -> None:
    done = run("status", "--address", server.address)
    assert done.returncode == 0
    rows = [line.split()[:6] for line in done.stdout.splitlines()[1:]]
    assert [row[:4] + row[5:] for row in rows] == [[name, "1", "READY", "fp32", "cpu"] for name in MODELS]
    assert all(re.fullmatch(r"\d\d\.\d\d%", row[4]) for row in rows)


def test_status_as_json(run: Run, server) -> None:
    models = json.loads(run("status", "--json", "--address", server.address).stdout)
    assert [model["name"] for model in models] == list(MODELS)
    assert {model["state"] for model in models} == {"MODEL_STATE_READY"}
    assert {(model["precision"], model["device"]) for model in models} == {("fp32", "cpu")}
    for model in models:
        sizes = [latency["batch_size"] for latency in model["batch_latencies"]]
        assert sizes == [size for size in (1, 2, 4, 8, 16, 32) if size <= model["max_batch_size"]]
        assert all(latency["latency_s"] > 0 for latency in model["batch_latencies"])


def test_status_ready_is_a_probe(run: Run, server, start_server, tmp_path: Path) -> None:
    done = run("status", "--ready", "--address", server.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    empty = start_server(repository=tmp_path)
    assert run("status", "--ready", "--address", empty.address).returncode == 1
    assert "no server answers" in refused(run("status", "--ready", "--address", "127.0.0.1:1"))


def test_verify_checks_every_artifact_on_this_machine(run: Run, repository: Path) -> None:
    done = run("verify", "--repository", repository, "--device", "cpu")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    published = ((name, precision) for name in MODELS for precision in ("fp32", "fp16", "int8"))
    assert [(row[0], row[2]) for row in rows] == list(published)
    allowed = {"fp32": 1e-5, "fp16": 1e-2, "int8": 5e-2}
    for row in rows:
        assert (row[3], float(row[5]), row[-1]) == ("cpu", allowed[row[2]], "ok")
        assert float(row[4]) <= allowed[row[2]]


def test_verify_names_what_fails_and_exits_1(run: Run, scratch_repository: Path) -> None:
    (scratch_repository / MODELS[1] / "1/labels.txt").write_text("0\n")
    done = run("verify", "--repository", scratch_repository, "--device", "cpu")
    assert done.returncode == 1
    assert "modelzoo: 1 of 3 models failed" in done.stderr
    [row, reason] = [line for line in done.stdout.splitlines() if line.startswith(MODELS[1])]
    assert row.split()[-1] == "FAILED"
    assert reason.startswith(f"{MODELS[1]}: labels.txt is not the file that was published: 2 bytes, ")
    assert done.stdout.count(" ok") == 6


def test_verify_refuses_what_is_not_there(run: Run, repository: Path, tmp_path: Path) -> None:
    line = refused(run("verify", "resnet50-digits", "--repository", repository, "--device", "cpu"))
    assert "holds no model called 'resnet50-digits'" in line
    assert "holds no model" in refused(run("verify", "--repository", tmp_path, "--device", "cpu"))
    line = refused(run("verify", "--repository", repository, "--device", "cuda:9"))
    assert "device cuda:9 does not work" in line


def test_the_help_names_every_default_of_the_server(run: Run) -> None:
    shown = " ".join(run("serve", "--help").stdout.split())
    for name in ("repository", "host", "grpc_port", "metrics_port", "device", "max_batch_size", "log_format"):
        assert f"[default: ({Settings.model_fields[name].default})]" in shown, name


def test_commands_ask_where_a_server_listens_unless_told_otherwise() -> None:
    fields = Settings.model_fields
    assert main._ADDRESS == DEFAULT_ADDRESS == f"{fields['host'].default}:{fields['grpc_port'].default}"


def hint_of(repository: Path, *options: str) -> tuple[str, str]:
    """Run `modelzoo serve` until it says how to ask it; give what it says, and its log."""
    command = [sys.executable, "-m", "cli.main", "serve", "--repository", str(repository), "--device", "cpu"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "--metrics-port", "0", *options], stdout=pipe, stderr=pipe, text=True
    ) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        for line in process.stdout:
            if line.strip():
                process.terminate()
                watchdog.cancel()
                return line, process.stderr.read()
        watchdog.cancel()
        return "", process.stderr.read()


def test_serve_says_how_to_ask_it_in_a_second_terminal(run: Run, repository: Path, picture: Path) -> None:
    hint, log = hint_of(repository, "--grpc-port", "0")
    [address] = re.findall(r"grpc=(127\.0\.0\.1:\d+)", log)
    start, _, command = hint.partition(" classify ")
    assert start.startswith("In a second terminal:  ")
    assert command == f"{picture} --model {MODELS[0]} --address {address}\n"


def test_serve_names_no_address_where_it_is_the_usual_one(repository: Path, picture: Path) -> None:
    hint, log = hint_of(repository)
    if "address already in use" in log:
        pytest.skip(f"{DEFAULT_ADDRESS} is taken on this machine")
    assert hint.partition(" classify ")[2] == f"{picture} --model {MODELS[0]}\n"


def test_importing_the_command_line_opens_no_room() -> None:
    rooms = {"server", "export", "zoo", "artifact", "client", "torch"}
    assert imported("import cli.main", rooms) == "set()"


def test_the_catalog_is_listed_without_torch() -> None:
    code = "from zoo import catalog, weights; [weights.has_imagenet(spec.name) for spec in catalog.CATALOG]"
    assert imported(code, {"torch", "torchvision"}) == "set()"


def imported(code: str, modules: set[str]) -> str:
    """Run code in a process of its own; tell which of some modules it imports."""
    code += f"\nimport sys; print({modules!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
