"""A log line holds what happened and why, and nothing that a client sent."""

import io
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.observability import logs
from tests.server.by_hand import Clock

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


FORGED = "x\n2026-01-01T00:00:00Z [info     ] serving\x1b[2J\u202egnp.exe\x9b1m\u2028\ud800"


def test_what_others_wrote_is_escaped_as_text_and_bounded() -> None:
    stream = io.StringIO()
    logs.make("text", stream).error(
        "model_failed", reason=FORGED, names=[FORGED], long="a" * 300, more={"k": FORGED}
    )
    [line] = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "\\n2026" in line
    assert "\\x1b[2J" in line
    assert "\\u202egnp.exe" in line
    assert "a" * 199 + "…" in line
    assert "a" * 200 not in line


def test_a_message_of_many_lines_cannot_look_like_an_event() -> None:
    stream = io.StringIO()
    log = logs.make("text", stream)
    log.error("call_failed", exc_info=ValueError(FORGED))
    first, *others = stream.getvalue().splitlines()
    assert "call_failed" in first
    assert len(others) > 1
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_json_lines_hold_no_control_characters_and_are_bounded() -> None:
    stream = io.StringIO()
    log = logs.make("json", stream)
    log.error("model_failed", reason=FORGED, long="a" * 300)
    log.error("call_failed", exc_info=ValueError("b" * 100_000))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isascii() and line.isprintable() and len(line) < 3000 for line in lines)
    assert len(json.loads(lines[0])["long"]) == 200


class Odd:
    def __repr__(self) -> str:
        raise ValueError("no words for it")


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_cannot_be_logged_is_counted_and_raises_nothing(form: str) -> None:
    registry = CollectorRegistry()
    log = logs.make(form, io.StringIO())
    logs.watch_drops(log, registry)
    log.bind(odd=Odd()).warning("odd", other=Odd())
    assert dropped(registry) == {"failed": 1}
    registry = CollectorRegistry()
    log = logs.make(form, Broken())
    logs.watch_drops(log, registry)
    log.info("first")
    log.bind(model="a").info("second")
    assert dropped(registry) == {"unwritable": 2}


def dropped(registry: CollectorRegistry) -> dict[str, float]:
    """What was not written, by the reasons there were."""
    [family] = registry.collect()
    return {sample.labels["reason"]: sample.value for sample in family.samples if sample.value}


def test_events_that_come_too_fast_are_suppressed_and_counted() -> None:
    clock, stream, registry = Clock(), io.StringIO(), CollectorRegistry()
    log = logs.make("json", stream, clock)
    logs.watch_drops(log, registry)
    for _ in range(1000):
        log.error("call_failed")
    log.info("serving")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["call_failed"] * 100 + ["serving"]
    assert dropped(registry) == {"suppressed": 900}
    clock.now_s += 1
    log.error("call_failed")
    log.error("call_failed")
    assert json.loads(stream.getvalue().splitlines()[-1])["suppressed"] == 900
    logs.flush(log)
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["event"], last["name"], last["suppressed"]) == ("log_suppressed", "call_failed", 1)


def test_names_of_events_that_others_make_up_share_one_rate() -> None:
    stream = io.StringIO()
    log = logs.make("json", stream, Clock())
    for number in range(10_000):
        log.error(f"event{number}")
    assert len(stream.getvalue().splitlines()) == 256 + 100


def test_a_full_disk_costs_the_lines_only() -> None:
    registry = CollectorRegistry()
    with Path("/dev/full").open("w") as full:
        log = logs.make("json", full)
        logs.watch_drops(log, registry)
        for _ in range(20):
            log.info("stopping")
        logs.flush(log)
        assert dropped(registry) == {"unwritable": 20}


def test_a_pipe_without_a_reader_costs_the_lines_only() -> None:
    registry = CollectorRegistry()
    ours, theirs = os.pipe()
    log = logs.make("json", os.fdopen(theirs, "w"))
    logs.watch_drops(log, registry)
    os.close(ours)
    log.info("stopping")
    logs.flush(log)
    assert dropped(registry) == {"unwritable": 1}


def test_a_pipe_that_nobody_reads_holds_up_nothing_and_a_bounded_number_of_lines() -> None:
    registry = CollectorRegistry()
    ours, theirs = os.pipe()
    log = logs.make("json", os.fdopen(theirs, "w"))
    logs.watch_drops(log, registry)
    for number in range(250):
        for kind in range(50):  # each has a rate of its own
            log.info(f"event{kind}", number=number, text=["a" * 199] * 5)
    logs.flush(log, 0.01)
    counts = dropped(registry)
    assert counts["full"] > 0
    written = 250 * 50 - counts["full"] - counts["suppressed"]
    assert 1000 * written < 2 << 20
    with os.fdopen(ours) as reader:  # what is read after all is whole
        for _ in range(50):
            assert json.loads(reader.readline())["event"].startswith("event")


FOREIGN = """
    import asyncio, logging, os, sys, threading, warnings
    from server.observability import capture, logs

    stderr = capture.StandardError()
    log = logs.make("json", stderr.stream)
    capture.divert_python(log)
    stderr.divert(log)

    logging.getLogger("grpc").error("of a library: %s", "x\\ny", exc_info=ValueError("why"))
    logging.getLogger("grpc").warning("bad arguments: %d", "x")
    logging.getLogger("grpc").info("quiet")
    warnings.warn("of a warning")
    thread = threading.Thread(target=lambda: 1 / 0, name="lost")
    thread.start()
    thread.join()

    class Unraisable:
        def __del__(self):
            raise KeyError("in del")

    Unraisable()

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(capture.loop_errors(log))
        loop.call_soon(lambda: [][1])
        task = loop.create_task(lost())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    async def lost():
        raise OSError("in a task")

    asyncio.run(main())
    print("by print", file=sys.stderr)
    os.write(2, b"by native code\\n\\x1b[2J without an end")
    stderr.restore()
    logs.flush(log)
"""


def test_what_libraries_print_by_themselves_becomes_events() -> None:
    command = [sys.executable, "-c", textwrap.dedent(FOREIGN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    told = [(e["event"], e.get("message") or e.get("text") or e.get("thread")) for e in events]
    assert ("library_message", "of a library: x\\ny") in told
    assert ("library_message", "bad arguments: %d") in told
    assert ("stderr", "by print") in told
    assert ("stderr", "by native code") in told
    assert ("stderr", "\\x1b[2J without an end") in told
    assert ("thread_ended", "lost") in told
    assert any(e["event"] == "library_message" and "of a warning" in e["message"] for e in events)
    assert any(e["event"] == "unraisable_exception" for e in events)
    raised = {e["exception"][0]["exc_type"] for e in events if e["event"] == "event_loop_error"}
    assert raised == {"IndexError", "OSError"}
    assert not any(message == "quiet" for _, message in told)
    assert done.stdout == ""


def test_a_process_without_standard_error_runs_all_the_same() -> None:
    code = textwrap.dedent(FOREIGN) + "print('here')"
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("here\n", "")
