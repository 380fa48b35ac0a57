"""What commands print: nothing of others moves a terminal, and no stream ends a command in a traceback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import typer

from artifact import layout, manifest
from cli import classify, status
from cli.terminal import console
from modelzoo.v1 import classifier_pb2
from tests.cli.process import Run, Show, refused

MODEL = "lenet5-digits"
SIGPIPE = 128 + 13
# ESC, BEL, DEL, CSI of C1, bidirectional override, isolate and mark, line separator.
HOSTILE = "cat\x1b[2J\x07\x7f\x9b31m\u202egnp.\u2066x\u200f\u2028"
SHOWN = r"cat\x1b[2J\x07\x7f\x9b31m\u202egnp.\u2066x\u200f\u2028"
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def clean(done: "subprocess.CompletedProcess[str]") -> None:
    assert "Traceback" not in done.stderr, done.stderr
    for text in (done.stdout, done.stderr):
        assert FORBIDDEN.search(text) is None, ascii(text)


@pytest.mark.parametrize(
    "character",
    [
        *map(chr, (0, 7, 8, 27, 0x7F, 0x85, 0x9B, 0xD800, 0xDCFF)),
        *"\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069",
    ],
)
def test_no_console_prints_a_control_character_in_whatever_form(
    character: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    table = Table(character, box=None)
    table.add_row(f"a{character}b")
    for one in (console.out, console.err):
        one.print(f"a{character}b", f"a{character}b", soft_wrap=True)
        one.print(
            Text(f"a{character}b"), table, Markdown(f"a&#{ord(character)};b `{character}` [{character}](x)")
        )
    captured = capsys.readouterr()
    for text in captured:
        assert FORBIDDEN.search(text) is None, ascii(text)
    if ord(character) not in (0, 7, 8):  # some of which Rich leaves out
        assert console.one_line(f"a{character}b") in captured.out


def test_a_text_of_others_is_a_bounded_line() -> None:
    assert console.one_line("a\tb\nmodelzoo: ok\r") == r"a\tb\nmodelzoo: ok\r"
    assert console.one_line("é" * 200) == "é" * 200
    assert console.one_line("é" * 201) == "é" * 199 + "…"
    assert len(console.one_line("\x1b" * 200)) == console.MAX_TEXT
    assert len(console.one_line("x" * 1_000_000)) == console.MAX_TEXT


def test_json_is_ascii_and_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: [HOSTILE, "\udcff", float("nan"), float("inf"), (1.5, {"x": -float("inf")})]}
    console.print_json(value)
    text = capsys.readouterr().out
    assert text.isascii()
    assert FORBIDDEN.search(text) is None
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {HOSTILE: [HOSTILE, "\udcff", None, None, [1.5, {"x": None}]]}


@pytest.fixture
def hostile_repository(scratch_repository: Path) -> Path:
    """A repository whose newest LeNet-5 has labels that would take a terminal over."""
    folder = scratch_repository / MODEL / "1"
    labels = [f"{HOSTILE.replace(chr(0x2028), '')}{index}" for index in range(9)] + ["x" * 1000]
    (folder / layout.LABELS).write_text("\n".join(labels) + "\n", "utf-8")
    described = manifest.read(folder)
    described.labels.CopyFrom(manifest.describe_file(folder / layout.LABELS))
    manifest.write(described, folder)
    return scratch_repository


@pytest.mark.slow
def test_labels_of_a_hostile_artifact_are_shown_as_text(
    run: Run, start_server, hostile_repository: Path
) -> None:
    running = start_server(repository=hostile_repository)
    picture = hostile_repository / MODEL / "1" / layout.CARD / layout.EXAMPLE
    asked = ("classify", picture, "--model", MODEL, "--address", running.address, "--top-k", 10)
    done = run(*asked)
    assert done.returncode == 0
    clean(done)
    assert len(done.stdout.splitlines()) == 11
    assert done.stdout.count(SHOWN.removesuffix(r"\u2028")) == 9
    assert "x" * 199 + "…" in done.stdout
    assert "x" * 200 not in done.stdout
    done = run(*asked, "--json")
    clean(done)
    assert done.stdout.isascii()
    [answer] = json.loads(done.stdout)
    assert sum(label["text"].startswith("cat\x1b[2J") for label in answer["labels"]) == 9
    clean(run("status", "--address", running.address))


class Liar(grpc.GenericRpcHandler):
    """Answers as no server of ours would."""

    def __init__(self) -> None:
        self.models = classifier_pb2.ListModelsResponse()
        self.models.models.add(
            name=f"{HOSTILE}\nmodelzoo: ok",
            state=99,
            device=HOSTILE,
            precision=HOSTILE,
            reason=HOSTILE * 10_000,
        )
        self.models.models.add(
            name="n" * 100_000,
            state=classifier_pb2.MODEL_STATE_READY,
            accuracy_ratio=float("nan"),
            host_memory_bytes=-5,
        )
        self.answer = classifier_pb2.ClassifyResponse()
        labels = self.answer.classifications.add().labels
        for probability in (float("nan"), float("inf"), -1.0, 1e30, 0.5):
            labels.add(label=HOSTILE, probability=probability)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        answers = {"ListModels": self._list, "Classify": self._classify}
        answer = answers.get(handler_call_details.method.rpartition("/")[2])
        return grpc.unary_unary_rpc_method_handler(answer) if answer else None

    def _list(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        return self.models.SerializeToString()

    def _classify(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        if b"refuse" in body:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"full {HOSTILE}\nmodelzoo: ok {'y' * 3000}")
        return self.answer.SerializeToString()


@pytest.fixture
def liar() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Liar()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_whatever_a_server_sends_is_shown_as_text(
    liar: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> tuple[str, str]:
        captured = capsys.readouterr()
        for text in captured:
            assert FORBIDDEN.search(text) is None, ascii(text)
        return captured

    status.run(liar, ready=False, as_json=False)
    lines = shown()[0].splitlines()
    assert len(lines) == 4  # a header, two models, one reason
    assert SHOWN in lines[1]
    assert "99" in lines[1].split()
    assert not any(line.startswith("modelzoo:") for line in lines)
    assert max(map(len, lines)) < 1200
    status.run(liar, ready=False, as_json=True)
    assert len(json.loads(shown()[0])) == 2
    (tmp_path / "a.png").write_bytes(b"a picture")
    classify.run([tmp_path / "a.png"], "net", liar, None, as_json=False)
    assert [line.count("█") for line in shown()[0].splitlines()[1:]] == [0, 0, 0, 0, 8]
    classify.run([tmp_path / "a.png"], "net", liar, None, as_json=True)
    probabilities = [label["probability"] for label in json.loads(shown()[0])[0]["labels"]]
    assert probabilities == [None, None, -1, pytest.approx(1e30), 0.5]
    with pytest.raises(typer.Exit):
        classify.run([tmp_path / "a.png"], "refuse", liar, None, as_json=False)
    [line] = shown()[1].splitlines()
    assert line.startswith(r"modelzoo: full cat\x1b[2J")
    assert len(line) <= len("modelzoo: ") + console.MAX_MESSAGE


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    ENCODINGS,
    ids=["ascii", "latin-1", "strict", "C"],
)
def test_a_terminal_that_lacks_a_character_shows_another(
    run: Run, liar: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"a picture")
    (tmp_path / "猫.png").write_bytes(b"a picture")
    done = run("classify", "a.png", "--address", liar, "--model", "net", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[5].rstrip().endswith("########")
    done = run("classify", "猫.png", "--address", liar, "--model", "refuse", **environment)
    assert refused(done).startswith("modelzoo: full cat")
    done = run("classify", "犬.png", "--address", liar, "--model", "refuse", **environment)
    assert refused(done).endswith(".png: no such file or directory")


@pytest.mark.slow
def test_every_command_prints_in_ascii(run: Run, repository: Path) -> None:
    for arguments in (("card", MODEL, "--repository", repository), ("--help",), ("nonsense",)):
        done = run(*arguments, PYTHONIOENCODING="ascii")
        assert "Traceback" not in done.stderr
        assert done.stdout.isascii()


@pytest.mark.slow
def test_a_card_in_a_pipe_is_its_page_uncut_and_controls_are_text(run: Run, scratch_repository: Path) -> None:
    page = scratch_repository / MODEL / "1" / layout.CARD / "README.md"
    text = page.read_text("utf-8") + f"| {'wide ' * 500}| end |\n"
    page.write_text(text, "utf-8")
    done = run("card", MODEL, "--repository", scratch_repository, COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(text)
    page.write_text(f"# {HOSTILE}\n\n&#27;[2J `{HOSTILE}` [{HOSTILE}](http://x/&#27;[2J)\n", "utf-8")
    done = run("card", MODEL, "--repository", scratch_repository)
    assert done.returncode == 0
    assert f"# {SHOWN}\n" in done.stdout
    clean(done)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 200])
def test_a_card_on_a_terminal_is_as_wide_as_the_terminal_or_as_a_page(
    show: Show, scratch_repository: Path, columns: int
) -> None:
    page = scratch_repository / MODEL / "1" / layout.CARD / "README.md"
    page.write_text(f"# {MODEL}\n\n{'word ' * 100}\n\n`{HOSTILE}` &#27;[2J\n", "utf-8")
    lines = show(columns, "card", MODEL, "--repository", scratch_repository)
    text = [line.rstrip() for line in lines if "word" in line]
    assert sum(line.count("word") for line in text) == 100
    assert max(map(len, text)) in range(min(columns, 100) - 5, min(columns, 100) + 1)
    assert not any(FORBIDDEN.search(line) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "codec can't decode"),
        (b"x" * ((1 << 20) + 1), "more than the 1,048,576 characters of a card"),
        (None, "not a regular file"),
    ],
    ids=["not UTF-8", "endless", "a pipe"],
)
def test_a_card_that_is_no_page_is_one_line(
    run: Run, scratch_repository: Path, content: bytes | None, reason: str
) -> None:
    page = scratch_repository / MODEL / "1" / layout.CARD / "README.md"
    page.unlink()
    if content is None:
        os.mkfifo(page)
    else:
        page.write_bytes(content)
    assert reason in refused(run("card", MODEL, "--repository", scratch_repository))


def shell(script: str, tmp_path: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a script in which `modelzoo` is the command; the further arguments are $1, $2 and so on."""
    definition = f'modelzoo() {{ {sys.executable} -m cli.main "$@"; }}\n'
    return subprocess.run(
        ["/bin/bash", "-c", definition + script, "bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )


PRINTERS = ["card lenet5-digits --repository $1", "status --json --address $2", "card --help"]
each_printer = pytest.mark.parametrize(
    "command",
    [PRINTERS[0], *(pytest.param(command, marks=pytest.mark.slow) for command in PRINTERS[1:])],
    ids=["card", "json", "help"],
)


@each_printer
def test_a_reader_that_leaves_ends_a_command_as_it_ends_others(
    command: str, repository: Path, tmp_path: Path, liar: str
) -> None:
    done = shell(f"modelzoo {command} | true; exit ${{PIPESTATUS[0]}}", tmp_path, repository, liar)
    assert (done.returncode, done.stderr) == (SIGPIPE, "")


@each_printer
def test_a_full_disk_is_one_line(command: str, repository: Path, tmp_path: Path, liar: str) -> None:
    done = shell(f"modelzoo {command} > /dev/full", tmp_path, repository, liar)
    assert (done.returncode, done.stderr) == (
        1,
        "modelzoo: cannot write standard output: no space left on device\n",
    )


@pytest.mark.slow
def test_a_closed_output_is_one_line(repository: Path, tmp_path: Path) -> None:
    done = shell(f"modelzoo {PRINTERS[0]} >&-", tmp_path, repository)
    assert (done.returncode, done.stderr) == (
        1,
        "modelzoo: cannot write standard output: bad file descriptor\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["2>&-", "2> /dev/full", "2>&1 | true"], ids=["closed", "full", "left"])
def test_a_refusal_keeps_its_exit_code_where_nothing_can_be_said(tmp_path: Path, place: str) -> None:
    done = shell(f"modelzoo status --address 127.0.0.1:1 {place}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.slow
def test_a_width_of_the_environment_that_is_none_is_passed_over(show: Show, liar: str) -> None:
    environment = {"COLUMNS": "0", "TERMINAL_WIDTH": "wide"}
    assert any("99" in line.split() for line in show(1000, "status", "--address", liar, **environment))
    assert any("--address" in line for line in show(80, "status", "--help", **environment))


@pytest.mark.slow  # it imports torch
def test_colours_that_are_forced_leave_a_pipe_its_lines(run: Run, repository: Path) -> None:
    plain = run("list", "--repository", repository).stdout
    coloured = run("list", "--repository", repository, FORCE_COLOR="1").stdout
    assert "\x1b[1m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
