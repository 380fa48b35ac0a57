"""A log line holds what happened and why, and nothing that a client sent."""

import io
import json
import socket

import pytest

from server.observability import logs

PICTURE = b"the client's picture"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fail(picture: bytes) -> None:
    copy = picture.upper()
    raise RuntimeError(f"{len(copy)} bytes did not work")


def log_a_failure(form: str, stream: io.StringIO) -> str:
    log = logs.make(form, stream)
    try:
        fail(PICTURE)
    except RuntimeError:
        log.bind(method="/a/b").exception("call_failed")
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_traceback_has_the_cause_and_the_way_to_it_but_no_local_variables(
    form: str, stream: type[io.StringIO]
) -> None:
    written = log_a_failure(form, stream())
    for part in ("call_failed", "/a/b", "RuntimeError", "20 bytes did not work", "log_a_failure", "fail"):
        assert part in written
    assert "picture" not in written.replace("fail(PICTURE)", "").lower()
    assert "locals" not in written


def test_a_failure_as_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = log_a_failure("json", io.StringIO()).splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["method"]) == ("call_failed", "error", "/a/b")
    [raised] = event["exception"]
    assert (raised["exc_type"], raised["exc_value"]) == ("RuntimeError", "20 bytes did not work")
    assert [frame["name"] for frame in raised["frames"]] == ["log_a_failure", "fail"]
    assert all("locals" not in frame for frame in raised["frames"])
    assert capsys.readouterr() == ("", "")


def test_an_event_as_text_is_one_line_with_its_values() -> None:
    stream = io.StringIO()
    logs.make("text", stream).info("serving", models=["a", "b"])
    [line] = stream.getvalue().splitlines()
    for part in ("info", "serving", "models=['a', 'b']"):
        assert part in line
    assert "\x1b" not in line  # no colours where no person looks


def test_a_terminal_is_given_colours() -> None:
    stream = Terminal()
    logs.make("text", stream).info("serving")
    assert "\x1b[" in stream.getvalue()


def test_what_only_a_developer_wants_is_not_logged() -> None:
    stream = io.StringIO()
    logs.make("json", stream).debug("detail")
    assert stream.getvalue() == ""


def test_a_line_is_written_in_one_piece_so_that_processes_can_share_a_stream() -> None:
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)  # each write arrives as a datagram of its own
    with near, far:
        # As sys.stderr is under PYTHONUNBUFFERED, which containers like to set.
        unbuffered = io.FileIO(far.fileno(), "w", closefd=False)
        log = logs.make("json", io.TextIOWrapper(unbuffered, write_through=True))
        log.info("first")
        log.info("second")
        pieces = [near.recv(1000).decode() for _ in range(2)]
    assert [json.loads(piece)["event"] for piece in pieces] == ["first", "second"]
    assert all(piece.endswith("\n") for piece in pieces)
