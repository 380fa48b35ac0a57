"""What a command is given and cannot use ends it in one line that says so."""

import os
from pathlib import Path

import pytest
import typer

from cli import card, classify, status, verify
from cli.terminal.console import REFUSED
from client.client import Client
from tests.cli.process import Run, refused

MODEL = "lenet5-digits"


def line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    [said] = captured.err.splitlines()
    assert said.startswith("modelzoo: ")
    return said.removeprefix("modelzoo: ")


ADDRESSES = {
    "127.0.0.1:99999": "port 99999 is not 1 to 65535",
    "127.0.0.1:0": "port 0 is not 1 to 65535",
    "": "names no host",
    "::1:8001": "an IPv6 address stands in brackets, as in [::1]:8001",
    "caf\udce9:8001": r"address 'caf\udce9:8001' is not UTF-8",
    "[::1]:1": "no server answers at [::1]:1",
    "a host:8001": "no server answers at a host:8001",
    "127.0.0.1:grpc": "no server answers at 127.0.0.1:grpc",
    "http://127.0.0.1:1": "no server answers at http://127.0.0.1:1",
    "unix:nowhere.sock": "no server answers at unix:nowhere.sock",
    "\x1b[2J:1": r"no server answers at \x1b[2J:1",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_wrong_address_is_one_line(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"a picture")
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as ended:
            status.run(address, ready=False, as_json=as_json)
        assert ended.value.exit_code == REFUSED
        assert ADDRESSES[address] in line(capsys)
        with pytest.raises(typer.Exit) as ended:
            classify.run([tmp_path / "a.png"], MODEL, address, None, as_json=as_json)
        assert ended.value.exit_code == REFUSED
        assert ADDRESSES[address] in line(capsys)


@pytest.mark.slow
def test_what_grpc_makes_of_an_address_is_not_printed_beside_the_line(run: Run) -> None:
    assert "the target uri is not valid" in refused(run("status", "--address", "ipv4:x:1"))


def made(folder: Path, kind: str) -> Path:
    path = folder / os.fsdecode(b"caf\xe9.png")
    match kind:
        case "a directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("no picture")
        case "100 MB":
            with path.open("wb") as file:
                file.truncate(100_000_000)
        case "without end":
            path.symlink_to("/dev/zero")
        case "a circle":
            path.symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("absent", r"cannot read {}: no such file or directory"),
        ("a directory", r"cannot read {}: is a directory"),
        ("a circle", r"cannot read {}: too many levels of symbolic links"),
        ("empty", r"{}: empty"),
        ("text", r"{}: neither a JPEG, a PNG nor a WebP file"),
        ("100 MB", r"larger than max (100000"),
        pytest.param("without end", r"cannot send {}: larger than", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_is_no_picture_is_one_line_that_names_it(
    kind: str, reason: str, server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(typer.Exit) as ended:
        classify.run([made(tmp_path, kind)], MODEL, server.address, None, as_json=False)
    assert ended.value.exit_code == REFUSED
    assert reason.format(tmp_path / r"caf\udce9.png") in line(capsys)


@pytest.mark.parametrize("name", ["", "nobody", "caf\udce9", "\x1b[2J", "n" * 100_000])
def test_a_model_of_no_name_is_one_line(
    name: str, server, capsys: pytest.CaptureFixture[str], repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"a picture")
    commands = (
        lambda: classify.run([tmp_path / "a.png"], name, server.address, None, as_json=False),
        lambda: card.run(name, repository),
        lambda: verify.run([name], repository, "cpu"),
    )
    for command in commands:
        with pytest.raises(typer.Exit) as ended:
            command()
        assert ended.value.exit_code == REFUSED
        said = line(capsys)
        assert "\x1b" not in said
        assert len(said) < 2100


def test_a_repository_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    (tmp_path / "file").touch()
    for repository in (tmp_path / "nowhere", tmp_path / "file", circle, Path("/proc/self/mem/x")):
        for command in (
            lambda r=repository: card.run(MODEL, r),
            lambda r=repository: verify.run([], r, "cpu"),
        ):
            with pytest.raises(typer.Exit):
                command()
            assert str(repository) in line(capsys)


def test_a_refusal_that_names_a_time_to_come_back_shows_it() -> None:
    import grpc

    from client.errors import ClientError

    full = ClientError(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", "", 0.25, from_server=True)
    assert full.describe("127.0.0.1:1") == "queue full; try again in 0.25 s"
    gone = ClientError(grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert gone.describe("127.0.0.1:1") == "no server answers at 127.0.0.1:1"
    with pytest.raises(ValueError, match="names no host"):
        Client("")
