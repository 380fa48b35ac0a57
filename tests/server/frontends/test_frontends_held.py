"""Front ends while the engine's device is held: what waits, what is refused, who is killed, how all stops."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from client import Client, ClientError
from server.config import Settings
from tests.conftest import Running
from tests.server import group
from tests.server.conftest import Gates
from tests.server.progress import wait_for

MODEL = "lenet5-digits"
BLANK = np.zeros((32, 32, 1), np.uint8)
MEMORY = "modelzoo-frontend"  # in /proc/<pid>/maps


class Held:
    """A server with two front ends, a client of each, and a gate before its device."""

    def __init__(self, running: Running, gates: Gates, pool: ThreadPoolExecutor) -> None:
        self.running = running
        self.network = gates[MODEL]
        self._pool = pool

    @property
    def waiting(self) -> int:
        return self.running.queue(MODEL).waiting

    def ask(self, client: Client, images: int = 1, **options: float) -> "Future[object]":
        """Ask without waiting for the answer."""
        return self._pool.submit(client.classify, MODEL, [BLANK] * images, **options)

    def occupy(self, client: Client, images: int = 1) -> "Future[object]":
        """Have the device hold a request, and everything after it wait."""
        self.network.shut()
        asked = self.ask(client, images)
        self.network.entered.acquire()
        return asked


@pytest.fixture(scope="module")
def held(repository: Path) -> Iterator[Held]:
    gates = Gates()
    settings = Settings(
        repository=repository,
        grpc_port=0,
        metrics_port=0,
        device="cpu",
        frontends=2,
        frontend_memory_bytes=1 << 20,
        max_images_per_request=1024,
        model_batch_sizes={MODEL: [32]},
        lanes=1,
        max_loop_s=0.0,
        log_format="json",
    )
    running = Running(settings, gates)
    if running.error is not None:
        raise running.error
    with ThreadPoolExecutor(8) as pool:
        yield Held(running, gates, pool)
        for network in gates.networks.values():
            network.open_all()
    running.stop()


@pytest.fixture
def clients(held: Held) -> Iterator[dict[int, Client]]:
    with group.one_client_each(held.running) as clients:
        yield clients
        held.network.open_all()


def comes_in(client: Client, images: int) -> bool:
    """Try whether there is room for so many images, which are most of the memory."""
    try:
        return len(client.classify(MODEL, [BLANK] * images)) == images
    except ClientError as error:
        return error.code != grpc.StatusCode.RESOURCE_EXHAUSTED and pytest.fail(str(error))


def refused(future: "Future[object]") -> ClientError:
    with pytest.raises(ClientError) as caught:
        future.result(60)
    return caught.value


def test_a_full_queue_and_a_full_memory_refuse_with_the_time_to_come_back(held: Held, clients) -> None:
    answers = [held.occupy(clients[1]), held.ask(clients[1], 600)]
    wait_for(lambda: held.waiting == 600)
    error = refused(held.ask(clients[2], 600))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "queue full: 600 of 1024 images queued for lenet5-digits, 600 requested" in str(error)
    assert error.retry_delay_s > 0
    error = refused(held.ask(clients[1], 600))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the memory that this front end shares with the engine has no room" in str(error)
    assert error.retry_delay_s > 0
    held.network.gate.set()
    assert [len(answer.result(60)) for answer in answers] == [1, 600]
    assert len(held.ask(clients[1], 900).result(60)) == 900  # all of the memory came back
    error = refused(held.ask(clients[1], 1024))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "frontend_memory_bytes" in str(error)


def test_a_request_that_is_late_gives_up_its_place(held: Held, clients) -> None:
    first = held.occupy(clients[1])
    before = group.total(held.running, "modelzoo_unanswered_images_total", model=MODEL, reason="expired")
    late = held.ask(clients[2], 3, timeout_s=0.3)
    wait_for(lambda: held.waiting == 3)
    assert refused(late).code == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: held.waiting == 0)
    held.network.gate.set()
    assert len(first.result(60)) == 1
    expired = group.total(held.running, "modelzoo_unanswered_images_total", model=MODEL, reason="expired")
    assert expired == before + 3


def test_memory_that_a_running_batch_reads_is_kept_for_it_when_its_caller_is_gone(
    held: Held, clients
) -> None:
    held.network.shut()
    gone = held.ask(clients[1], 600, timeout_s=0.5)
    held.network.entered.acquire()
    assert refused(gone).code == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: held.waiting == 0)  # the images that waited gave up their seats; 32 ride
    assert "no room" in str(refused(held.ask(clients[1], 600)))
    held.network.gate.set()
    wait_for(lambda: comes_in(clients[1], 900))


@pytest.mark.slow
def test_after_a_storm_of_callers_who_give_up_all_memory_is_free(held: Held, clients) -> None:
    chance = np.random.default_rng(0)

    def ask(turn: int) -> grpc.StatusCode:
        images, timeout_s = int(chance.integers(1, 300)), float(chance.uniform(0.001, 0.05))
        if turn % 10 == 0:
            timeout_s = 60  # somebody who does not give up
        try:
            clients[1 + turn % 2].classify(MODEL, [BLANK] * images, timeout_s=timeout_s)
        except ClientError as error:
            return error.code
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(32) as pool:
        codes = set(pool.map(ask, range(3000)))
    assert codes <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    assert {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED} <= codes
    wait_for(lambda: held.waiting == 0)
    for client in clients.values():
        wait_for(lambda client=client: comes_in(client, 900))


def test_a_front_end_that_is_killed_takes_only_its_own_requests_with_it(held: Held, clients) -> None:
    running = held.running
    assert len(clients[1].classify(MODEL, [BLANK] * 5)) == 5
    counted = group.scrape(running)
    mappings = Path("/proc/self/maps").read_text().count(MEMORY)
    first = held.occupy(clients[1])
    waits = held.ask(clients[1])
    wait_for(lambda: held.waiting == 1)
    others = held.ask(clients[2])
    wait_for(lambda: held.waiting == 2)

    killed = group.pids(running)[1]
    ended = len(group.logged(running, "frontend_ended"))
    os.kill(killed, signal.SIGKILL)
    for request in (first, waits):
        assert refused(request).code == grpc.StatusCode.UNAVAILABLE
    wait_for(lambda: held.waiting == 1)  # those of the other front end alone
    wait_for(lambda: len(group.logged(running, "frontend_ended")) > ended)
    said = group.logged(running, "frontend_ended")[-1]
    assert (said["frontend"], said["pid"], said["unanswered"]) == (1, killed, 2)
    assert said["cause"] == "signal 9 (SIGKILL)"
    held.network.gate.set()
    assert len(others.result(60)) == 1

    wait_for(lambda: group.pids(running)[1] != killed)
    with group.one_client_each(running) as anew:
        assert len(anew[1].classify(MODEL, [BLANK] * 900)) == 900
    after = group.scrape(running)
    fallen = {
        key
        for key, value in counted.items()
        if key[0].endswith(("_total", "_count", "_bucket", "_sum")) and after[key] < value
    }
    assert fallen == set()
    assert after["modelzoo_frontends", frozenset()] == 2
    assert after["modelzoo_frontend_restarts_total", frozenset()] == (
        counted["modelzoo_frontend_restarts_total", frozenset()] + 1
    )
    wait_for(lambda: Path("/proc/self/maps").read_text().count(MEMORY) == mappings)


@pytest.mark.slow
def test_a_front_end_that_hangs_stands_in_with_its_last_word(held: Held, clients) -> None:
    running, pid = held.running, group.pids(held.running)[2]
    for client in clients.values():
        client.classify(MODEL, [BLANK])
    before = group.scrape(running)
    os.kill(pid, signal.SIGSTOP)
    try:
        after = group.scrape(running)
    finally:
        os.kill(pid, signal.SIGCONT)
    images, missed = "modelzoo_images_total", "modelzoo_frontend_reports_missed_total"
    key = (images, frozenset({("model", MODEL)}))
    assert after[key] == before[key]
    assert group.scrape(running)[missed, frozenset()] == before[missed, frozenset()] + 1
    assert len(clients[2].classify(MODEL, [BLANK])) == 1


def test_a_stop_answers_what_every_front_end_accepted_and_refuses_the_rest(start_server, gates) -> None:
    running = start_server(open_network=gates, frontends=2, log_format="json")
    with ThreadPoolExecutor(8) as pool, group.one_client_each(running) as clients:
        held = Held(running, gates, pool)
        accepted = [held.occupy(clients[1]), held.ask(clients[2]), held.ask(clients[1])]
        wait_for(lambda: held.waiting == 2)
        stopping = pool.submit(running.stop)
        for client in clients.values():
            wait_for(lambda client=client: not client.is_serving())
            with pytest.raises(ClientError, match="draining") as caught:
                client.classify(MODEL, [BLANK])
            assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        held.network.gate.set()
        assert [len(answer.result(60)) for answer in accepted] == [1, 1, 1]
        stopping.result(60)
    assert {said["cause"] for said in group.logged(running, "frontend_stopped")} == {"exit code 0"}
    assert len(group.logged(running, "frontend_stopped")) == 2
