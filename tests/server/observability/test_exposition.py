"""The metrics port: answers scrapers and probes, whatever peers, collectors and the engine's loop do."""

import asyncio
import contextlib
import gzip
import http.client
import io
import json
import random
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server import ports
from server.app import Server
from server.config import Settings
from server.frontends.reports import FrontendCounts, SummedCollector
from server.observability import logs
from server.observability.exposition import MetricsPort
from server.observability.guarded import Guarded

HOST = "127.0.0.1"
WAIT_S = 30.0  # a limit for a test's failure only
LARGE_BYTES = 1 << 20  # more than the kernel holds for a peer that does not read
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
TEXT, OPENMETRICS = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0"

Open = Callable[..., MetricsPort]


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def open_port(log: io.StringIO) -> Iterator[Open]:
    """Opens metrics ports; with one gauge, `answer`, of 42, unless a test gives a registry."""
    with contextlib.ExitStack() as stack:

        def open_(registry: CollectorRegistry | None = None, host: str = HOST, **options) -> MetricsPort:
            if registry is None:
                registry = CollectorRegistry()
                Gauge("answer", "To everything.", registry=registry).set(42)
            given = {"healthy": str, "ready": str, "log": logs.make("json", log)} | options
            port = MetricsPort(registry, partial(ports.listen, host), 0, **given)
            stack.callback(port.close)
            return port

        yield open_


@pytest.fixture
def crowd() -> Iterator[Callable[..., list[socket.socket]]]:
    """Opens many connections that send the same bytes and then nothing."""
    with contextlib.ExitStack() as stack:

        def gather(port: MetricsPort, count: int, words: bytes = b"") -> list[socket.socket]:
            sockets = [stack.enter_context(connect(port)) for _ in range(count)]
            for one in sockets:
                with contextlib.suppress(ConnectionError):  # it had to make room
                    one.sendall(words)
            return sockets

        yield gather


def connect(port: MetricsPort) -> socket.socket:
    return socket.create_connection((HOST, port.port), timeout=WAIT_S)


def ask(
    port: MetricsPort | int, path: str = "/metrics", method: str = "GET", host: str = HOST, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask on a connection of its own: status, headers in lower case, body."""
    number = port if isinstance(port, int) else port.port
    with contextlib.closing(http.client.HTTPConnection(host, number, timeout=WAIT_S)) as connection:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def scrape(port: MetricsPort | int, host: str = HOST, **headers: str) -> str:
    status, _, body = ask(port, host=host, **headers)
    assert status == 200, body
    return body.decode()


def read_all(connection: socket.socket) -> bytes:
    """Read to the end, which may be a reset."""
    read = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            read += data
    return bytes(read)


def closed_by_peer(connection: socket.socket) -> Callable[[float], bool]:
    """Give a wait for the peer's closing, which reads nothing."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return lambda wait_s: bool(poll.poll(wait_s * 1000))


class Blocking(Collector):
    """A collector that waits for a word, and counts how often it was asked."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Semaphore(0), threading.Event()
        self.count = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        self.count += 1
        self.began.release()
        self.go_on.wait()
        yield GaugeMetricFamily("answer", "To everything.", value=self.count)


class Failing(Collector):
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        raise OSError("the driver does not answer")


def test_a_scrape_is_answered(open_port: Open) -> None:
    assert "\nanswer 42.0\n" in scrape(open_port())


def test_a_scrape_is_answered_over_ipv6(open_port: Open) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert "\nanswer 42.0\n" in scrape(open_port(host="::1"), "::1")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4;q=0.3,*/*;q=0.2", TEXT),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        ("application/openmetrics-text", f"{OPENMETRICS}; charset=utf-8"),
        (  # of Prometheus 3
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;"
            "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            f"{OPENMETRICS}; charset=utf-8; escaping=allow-utf-8",
        ),
        (
            "application/openmetrics-text;version=9.9;escaping=dots",
            f"{OPENMETRICS}; charset=utf-8; escaping=underscores",
        ),
        ("application/openmetrics-text;version=one", TEXT),
    ],
)
def test_a_scrape_has_the_format_that_it_asks_for(open_port: Open, accept: str, content_type: str) -> None:
    status, headers, body = ask(open_port(), accept=accept)
    assert (status, headers["content-type"]) == (200, content_type)
    assert body.endswith(b"# EOF\n") == content_type.startswith(OPENMETRICS)
    assert b"\nanswer 42.0\n" in body


@pytest.mark.parametrize(
    ("accepted", "zipped"), [("gzip", True), ("deflate, gzip;q=0.5", True), ("br", False)]
)
def test_a_scrape_is_compressed_where_it_asks_for_gzip(open_port: Open, accepted: str, zipped: bool) -> None:
    status, headers, body = ask(open_port(), accept_encoding=accepted)
    assert (status, headers.get("content-encoding")) == (200, "gzip" if zipped else None)
    assert b"\nanswer 42.0\n" in (gzip.decompress(body) if zipped else body)


def test_head_has_the_headers_of_get_and_no_body(open_port: Open) -> None:
    port = open_port()
    for path in ("/metrics", "/healthz", "/nothing"):
        status, headers, body = ask(port, path, "HEAD")
        assert (status, headers, b"") == (*ask(port, path)[:2], body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_only_get_and_head_are_allowed(open_port: Open, method: str) -> None:
    status, headers, _ = ask(open_port(), method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics2", "/Metrics", "/healthz/x", "//metrics", "*"])
def test_any_other_path_is_not_found(open_port: Open, path: str) -> None:
    assert ask(open_port(), path)[0] == 404


@pytest.mark.parametrize("path", ["/metrics?x=1", "http://here/metrics"])
def test_a_query_and_a_host_in_the_target_change_nothing(open_port: Open, path: str) -> None:
    assert ask(open_port(), path)[0] == 200


@pytest.mark.parametrize("check", ["healthy", "ready"])
def test_a_probe_is_answered_with_one_line_that_says_why(open_port: Open, check: str) -> None:
    reasons = [""]
    path = {"healthy": "/healthz", "ready": "/readyz"}[check]
    port = open_port(**{check: lambda: reasons[0]})
    status, headers, body = ask(port, path)
    assert (status, headers["content-type"], body) == (200, "text/plain; charset=utf-8", b"ok\n")
    reasons[0] = "lane 1 hangs\n for 40 s"
    assert ask(port, path)[::2] == (503, b"lane 1 hangs for 40 s\n")
    reasons[0] = "x" * 1000
    assert ask(port, path)[::2] == (503, b"x" * 200 + b"\n")
    reasons[0] = None  # a fault of the check itself
    assert ask(port, path)[::2] == (503, b"the check itself failed; the server's log has the cause\n")
    other = {"healthy": "/readyz", "ready": "/healthz"}[check]
    assert ask(port, other)[0] == 200


STALLED = {
    "silent": b"",
    "dripping": b"GET /metrics HTTP/1.1\r\nHos",
    "kept open": GET.replace(b"/metrics", b"/healthz"),
    "not reading": GET,
}


@pytest.mark.parametrize("words", STALLED.values(), ids=STALLED)
@pytest.mark.parametrize("count", [16, 260, pytest.param(1000, marks=pytest.mark.slow)])
def test_however_many_connections_stall_a_scrape_is_answered(
    open_port: Open, crowd, count: int, words: bytes
) -> None:
    registry = CollectorRegistry()
    Gauge("answer", "x" * (LARGE_BYTES if words == GET else 1), registry=registry).set(42)
    port = open_port(registry, exchange_s=600.0)
    crowd(port, count, words)
    assert "\nanswer 42.0\n" in scrape(port)
    assert ask(port, "/readyz")[0] == 200


def test_a_connection_that_stalls_longest_makes_room_and_one_that_waits_for_its_answer_does_not(
    open_port: Open, crowd
) -> None:
    collector = Blocking()
    port = open_port(collector.registry, exchange_s=600.0)
    with connect(port) as waiting:
        waiting.sendall(GET)
        collector.began.acquire()
        oldest = crowd(port, 1)[0]
        crowd(port, 1000)
        assert oldest.recv(1) == b""
        collector.go_on.set()
        assert read_all(waiting).endswith(b"\nanswer 1.0\n")


def test_the_whole_request_has_a_time_limit_however_it_drips(
    open_port: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    port = open_port(exchange_s=0.2)
    tick = threading.Event()
    with connect(port) as dripping:
        dripping.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        closed = closed_by_peer(dripping)
        for _ in range(int(WAIT_S / 0.01)):
            if closed(0):
                break
            dripping.sendall(b"x")
            tick.wait(0.01)  # the peer's pace, not the test's
        assert closed(0)
    assert "\nanswer 42.0\n" in scrape(port)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("words", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: here\r\n"])
def test_a_connection_that_sends_no_more_is_closed_without_a_word(
    open_port: Open, words: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(open_port(exchange_s=0.05)) as silent:
        silent.sendall(words)
        assert silent.recv(1) == b""
    assert capfd.readouterr() == ("", "")


def test_an_answer_that_is_not_read_has_a_time_limit(open_port: Open) -> None:
    registry = CollectorRegistry()
    Gauge("answer", "x" * LARGE_BYTES, registry=registry).set(42)
    port = open_port(registry, exchange_s=1.0)
    with connect(port) as unread:
        unread.sendall(GET)
        assert closed_by_peer(unread)(WAIT_S)
    assert "\nanswer 42.0\n" in scrape(port)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (64 << 10), 431),
        (b"x" * (64 << 10), 431),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET http://[ HTTP/1.1\r\nHost: here\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    ],
)
def test_a_request_that_is_none_gets_its_status(open_port: Open, words: bytes, status: int, capfd) -> None:
    port = open_port()
    with connect(port) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
        assert f" {status} ".encode() in read_all(connection)[:16]
    assert capfd.readouterr() == ("", "")


def test_a_body_that_nobody_asked_for_does_not_cut_the_answer(open_port: Open) -> None:
    with connect(open_port()) as connection:
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60000
        )
        assert read_all(connection).endswith(b"\r\n\r\nok\n")


def test_random_bytes_and_resets_are_no_event(open_port: Open, log: io.StringIO, capfd) -> None:
    port = open_port()
    source = random.Random(9)
    for _ in range(300):
        with connect(port) as rude:
            words = bytearray(GET)
            for _ in range(source.randrange(4)):
                words[source.randrange(len(words))] = source.randrange(256)
            with contextlib.suppress(ConnectionError):
                rude.sendall(words[: source.randrange(len(words) + 1)])
            if source.random() < 0.5:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
    assert "\nanswer 42.0\n" in scrape(port)
    assert (log.getvalue(), *capfd.readouterr()) == ("", "", "")


def test_scrapes_that_come_together_share_one_text_that_shows_what_was_counted_before(
    open_port: Open,
) -> None:
    collector = Blocking()
    port = open_port(collector.registry)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(port))
        first.sendall(GET)
        collector.began.acquire()
        others = [stack.enter_context(connect(port)) for _ in range(20)]
        for one in others:
            one.sendall(GET)
        assert ask(port, "/healthz")[0] == 200  # accepted after them: their requests have been read
        collector.go_on.set()
        assert read_all(first).endswith(b"\nanswer 1.0\n")
        assert all(read_all(one).endswith(b"\nanswer 2.0\n") for one in others)
    assert collector.count == 2


def test_a_collector_that_hangs_blinds_no_probe_and_a_scrape_says_so_in_time(open_port: Open) -> None:
    collector = Blocking()
    port = open_port(collector.registry, collect_s=0.1)
    line = b"collecting metrics took over 0.1 s; the server's log has the cause\n"
    assert ask(port)[::2] == (503, line)
    assert ask(port)[::2] == (503, line)
    assert ask(port, "/healthz")[0] == 200
    collector.go_on.set()
    while (status := ask(port)[0]) != 200:
        assert status == 503


def test_a_collector_that_fails_is_logged_once_and_ends_nothing(open_port: Open, log: io.StringIO) -> None:
    registry = CollectorRegistry()
    failing = Failing()
    registry.register(failing)
    port = open_port(registry)
    for _ in range(3):
        assert ask(port)[::2] == (503, b"collecting metrics failed; the server's log has the cause\n")
    assert log.getvalue().count("the driver does not answer") >= 1
    assert len(log.getvalue().splitlines()) == 1
    registry.unregister(failing)
    assert ask(port)[0] == 200


def test_a_guarded_collector_that_fails_or_hangs_leaves_the_rest_of_the_scrape(
    open_port: Open, log: io.StringIO
) -> None:
    registry, hanging = CollectorRegistry(), Blocking()
    Gauge("here", "What there is.", registry=registry).set(1)
    registry.register(Guarded(Failing(), logs.make("json", log)))
    registry.register(Guarded(hanging, logs.make("json", log), patience_s=0.05))
    port = open_port(registry)
    for _ in range(3):
        page = scrape(port)
        assert ("\nhere 1.0\n" in page, "answer" in page) == (True, False)
    assert [json.loads(line)["error"] for line in log.getvalue().splitlines()] == [
        "OSError: the driver does not answer",
        "no answer within 0.05 s",
    ]
    assert hanging.count == 1
    hanging.go_on.set()
    assert "\nanswer " in scrape(port)


def test_a_port_whose_serving_ends_serves_again(open_port: Open, log: io.StringIO) -> None:
    failed = threading.Event()
    port = open_port(on_failure=failed.set)
    port._listener.shutdown(socket.SHUT_RDWR)  # the next accept fails, and would for ever
    assert failed.wait(WAIT_S)
    answer = None
    while answer is None:
        with contextlib.suppress(ConnectionError):
            answer = scrape(port)
    assert "\nanswer 42.0\n" in answer
    assert "metrics_port_failed" in log.getvalue()


def test_closing_waits_for_no_connection_and_no_collector(open_port: Open, crowd) -> None:
    collector = Blocking()
    port = open_port(collector.registry, exchange_s=600.0)
    silent, waiting = crowd(port, 1)[0], crowd(port, 1, GET)[0]
    collector.began.acquire()
    port.close()
    assert not port.is_alive
    assert (read_all(silent), read_all(waiting)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    collector.go_on.set()


def test_a_process_that_has_no_descriptor_left_still_answers(crowd) -> None:
    code = f"""
import resource, sys
from functools import partial
from prometheus_client import CollectorRegistry
from server import ports
from server.observability import logs
from server.observability.exposition import MetricsPort
log = logs.make("json", sys.stderr)
port = MetricsPort(CollectorRegistry(), partial(ports.listen, {HOST!r}), 0, healthy=str, ready=str, log=log)
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
print(port.port, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        number = int(process.stdout.readline())
        crowd(type("Port", (), {"port": number}), 200)
        assert ask(number, "/readyz")[0] == 200
        assert ask(number)[0] == 200


@contextlib.contextmanager
def blocked(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Holds an event loop, as a long computation on it would."""
    held, release = threading.Event(), threading.Event()
    loop.call_soon_threadsafe(lambda: (held.set(), release.wait()))
    held.wait()
    try:
        yield
    finally:
        release.set()


def test_while_the_loop_of_front_ends_does_not_answer_its_last_answer_is_shown_with_what_is_here() -> None:
    own = CollectorRegistry()
    here = Counter("here", "Counted here.", registry=own)
    there = {"here": {("here_total", ()): 5.0}}

    async def counts():
        return there

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    registry = CollectorRegistry()
    asked = FrontendCounts(counts, loop, 0.05)
    with blocked(loop):
        registry.register(SummedCollector(own, asked))
        assert registry.get_sample_value("here_total") == 0.0
    asked._pending.result()
    there["here"]["here_total", ()] = 6.0
    assert registry.get_sample_value("here_total") == 6.0
    with blocked(loop):
        here.inc()
        assert registry.get_sample_value("here_total") == 7.0
    asked._pending.result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("frontends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_whose_event_loop_is_held_still_answers_scrapes_and_probes(
    start_empty, frontends: int
) -> None:
    running = start_empty(frontends=frontends)
    port = running.server.metrics_port
    assert f"\nmodelzoo_frontends {frontends}.0\n" in scrape(port)
    with blocked(running._loop):
        assert f"\nmodelzoo_frontends {frontends}.0\n" in scrape(port)
        assert ask(port, "/healthz")[::2] == (200, b"ok\n")
        assert ask(port, "/readyz")[::2] == (503, b"no model is ready\n")


def test_a_server_is_ready_when_its_models_are_and_not_while_it_loads_or_stops(tmp_path: Path) -> None:
    async def life() -> list[tuple[int, bytes]]:
        settings = Settings(repository=tmp_path, grpc_port=0, metrics_port=0, device="cpu")
        server = Server(settings, logs.make("json", io.StringIO()))
        await server.open()

        async def readyz() -> tuple[int, bytes]:
            return (await asyncio.to_thread(ask, server.metrics_port, "/readyz"))[::2]

        answers = [await readyz()]
        await server.load()
        answers.append(await readyz())
        server._set_serving(True)  # as a model does that becomes READY
        answers.append(await readyz())
        server.force_stop()
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)  # until it waits for the first time
        assert server._not_ready() == "the server is stopping"
        await stopping
        return answers

    assert asyncio.run(life()) == [
        (503, b"models are being loaded\n"),
        (503, b"no model is ready\n"),
        (200, b"ok\n"),
    ]
