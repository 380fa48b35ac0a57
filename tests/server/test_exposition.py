"""The metrics port: answers scrapers, and lets nobody hold it up."""

import contextlib
import socket
import struct
import threading
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from server.exposition import MetricsPort

CONNECTIONS = 16  # that the port serves at a time
HOST = "127.0.0.1"

Open = Callable[..., MetricsPort]


@pytest.fixture
def open_port() -> Iterator[Open]:
    """Opens metrics ports with one gauge, `answer`, of 42."""
    with contextlib.ExitStack() as stack:

        def open_(host: str = HOST, **options: float) -> MetricsPort:
            registry = CollectorRegistry()
            Gauge("answer", "To everything.", registry=registry).set(42)
            port = MetricsPort(registry, host, 0, **options)
            stack.callback(port.close)
            return port

        yield open_


def scrape(port: MetricsPort, host: str = HOST) -> str:
    with urllib.request.urlopen(f"http://{host}:{port.port}/metrics", timeout=30) as response:
        assert response.status == 200
        return response.read().decode()


def say_nothing(port: MetricsPort) -> socket.socket:
    connection = socket.create_connection((HOST, port.port))
    connection.settimeout(30)  # a limit for the test's failure only
    return connection


def test_a_scrape_is_answered(open_port: Open) -> None:
    assert "\nanswer 42.0\n" in scrape(open_port())


def test_a_scrape_is_answered_over_ipv6(open_port: Open) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert "\nanswer 42.0\n" in scrape(open_port("::1"), "[::1]")


def test_one_connection_too_many_is_closed_at_once_and_a_seat_that_is_left_is_given_again(
    open_port: Open,
) -> None:
    port = open_port(patience_s=600.0)
    silent = [say_nothing(port) for _ in range(CONNECTIONS)]
    with contextlib.closing(say_nothing(port)) as refused:
        assert refused.recv(1) == b""
    with pytest.raises(OSError):  # noqa: PT011 - closed or reset, as the network has it
        scrape(port)
    silent.pop().close()
    answer, tick = None, threading.Event()
    while answer is None:  # the port hears of it in its own time
        with contextlib.suppress(OSError):
            answer = scrape(port)
        tick.wait(0.002)
    assert "\nanswer 42.0\n" in answer
    for connection in silent:
        connection.close()


def test_silent_connections_below_the_limit_do_not_hold_up_a_scrape(open_port: Open) -> None:
    port = open_port(patience_s=600.0)
    silent = [say_nothing(port) for _ in range(CONNECTIONS - 1)]
    assert "\nanswer 42.0\n" in scrape(port)
    for connection in silent:
        connection.close()


def test_a_silent_connection_is_let_go_after_a_while_without_a_word(
    open_port: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    port = open_port(patience_s=0.05)
    for words in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: here\r\n"):
        with contextlib.closing(say_nothing(port)) as silent:
            silent.sendall(words)
            assert silent.recv(1) == b""
    assert "\nanswer 42.0\n" in scrape(port)
    assert capsys.readouterr() == ("", "")


def test_a_connection_that_is_reset_is_no_event(open_port: Open, capsys: pytest.CaptureFixture[str]) -> None:
    port = open_port(patience_s=600.0)
    for _ in range(CONNECTIONS // 2):
        with contextlib.closing(say_nothing(port)) as rude:
            rude.sendall(b"GET /met")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
    assert "\nanswer 42.0\n" in scrape(port)  # the others came before
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(30)
    assert capsys.readouterr() == ("", "")


def test_closing_waits_for_no_connection(open_port: Open) -> None:
    port = open_port(patience_s=600.0)
    with contextlib.closing(say_nothing(port)):
        closing = threading.Thread(target=port.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port.port))
