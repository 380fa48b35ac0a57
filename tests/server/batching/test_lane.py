"""A device's threads: as many as the settings say, whatever they are asked to do, and an end in time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from export import pipeline
from modelzoo.v1 import manifest_pb2
from server.errors import InferenceError
from server.runtime import opening
from server.runtime.device import Device, open_session
from server.runtime.network import OnnxNetwork
from tests.server.by_hand import Echo
from tests.server.conftest import GatedNetwork
from tests.server.progress import CountingCondition, wait_for

MODEL = "lenet5-digits"
PIXELS = np.zeros((32, 32, 1), np.uint8)


class Holder:
    """A function that holds the thread that calls it."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self.gate.wait(60), "nobody opened the gate"


@pytest.fixture
def lane(wire):
    """Make a lane with so many threads; it has no batches to run."""

    def lane(threads: int = 1):
        async def make():
            return wire(lanes=threads).lane

        return asyncio.run(make())

    return lane


def boom() -> None:
    raise ValueError("no such file")


def test_a_call_gives_its_result_or_its_exception_and_the_lane_goes_on(lane) -> None:
    one = lane()
    failed, answered = one.call(boom), one.call(lambda: threading.current_thread().name)
    with pytest.raises(ValueError, match=r"^no such file$"):
        failed.result(60)
    assert answered.result(60) == "lane-0"


def test_a_call_that_was_cancelled_while_it_waited_is_not_made(lane) -> None:
    one, holder, made = lane(), Holder(), []
    held = one.call(holder)
    assert holder.entered.acquire(timeout=60)
    doomed, kept = one.call(lambda: made.append("doomed")), one.call(lambda: made.append("kept"))
    assert doomed.cancel()
    holder.gate.set()
    held.result(60)
    kept.result(60)
    assert made == ["kept"]


def test_a_stopped_lane_takes_no_more_calls(lane) -> None:
    one = lane()
    assert one.stop(60)
    with pytest.raises(RuntimeError, match=r"^the lane has stopped$"):
        one.call(boom)


def test_stopping_finishes_what_was_queued(lane) -> None:
    one, holder, made = lane(), Holder(), []
    one.call(holder)
    assert holder.entered.acquire(timeout=60)
    for number in range(3):
        one.call(lambda number=number: made.append(number))
    assert not one.stop(0)  # told, but still busy
    holder.gate.set()
    assert one.stop(60)
    assert made == [0, 1, 2]


class Crash(BaseException):
    """What no code expects, as SystemExit is."""


class Odd:
    """A network that answers with anything."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def infer(self, rows: object) -> object:
        return self.answer


IMAGE = np.full((1, 1, 1), 255, np.uint8)


@pytest.mark.parametrize("answer", [None, "text", [[1.0, 0.0]], np.array([["a", "b"]], object)])
def test_a_network_that_answers_with_something_else_fails_its_batch_and_not_the_lane(wire, answer) -> None:
    async def scenario() -> None:
        wired = wire(network=GatedNetwork(Echo()))
        wired.queue.network = Odd(answer)
        with pytest.raises(InferenceError):
            await asyncio.wait_for(wired.batcher.submit(wired.queue, [IMAGE]), 60)
        wired.queue.network = Echo()
        answered = await asyncio.wait_for(wired.batcher.submit(wired.queue, [IMAGE]), 60)
        assert answered.probabilities.tolist() == [[1.0, 0.0]]
        assert len(wired.logged) == 1
        assert wired.lane_failures == []

    asyncio.run(scenario())


def test_a_lane_that_fails_settles_its_batch_and_goes_on(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        wired.network.failures.extend([Crash("out of order"), None])
        with pytest.raises(InferenceError):
            await asyncio.wait_for(wired.batcher.submit(wired.queue, [IMAGE]), 60)
        answered = await asyncio.wait_for(wired.batcher.submit(wired.queue, [IMAGE]), 60)
        assert answered.probabilities.tolist() == [[1.0, 0.0]]
        assert wired.lane_failures == [("Crash", True)]
        assert [str(error) for _, error in wired.logged] == ["Crash: out of order"]
        await asyncio.to_thread(wait_for, lambda: wired.lane.running() == [])  # settled, and then let go

    asyncio.run(scenario())


def test_a_call_that_fails_oddly_gives_an_exception_and_the_lane_goes_on(wire) -> None:
    async def scenario() -> None:
        wired = wire()

        def crash() -> None:
            raise Crash("out of order")

        with pytest.raises(RuntimeError, match=r"^Crash: out of order$"):
            await asyncio.wait_for(asyncio.wrap_future(wired.lane.call(crash)), 60)
        assert await asyncio.wait_for(asyncio.wrap_future(wired.lane.call(lambda: 3)), 60) == 3
        assert wired.lane_failures == [("Crash", True)]

    asyncio.run(scenario())


def test_a_lane_that_fails_again_and_again_gives_up_and_says_so(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        wired.network.failures.extend([Crash()] * 6)
        for _ in range(6):
            with pytest.raises(InferenceError):
                await asyncio.wait_for(wired.batcher.submit(wired.queue, [IMAGE]), 60)
        assert await asyncio.to_thread(wired.lane.stop, 60)  # its thread has ended
        assert wired.lane_failures == [("Crash", True)] * 5 + [("Crash", False)]

    asyncio.run(scenario())


def test_stopping_answers_the_batches_that_wait(wire) -> None:
    async def scenario() -> None:
        wired = wire()
        wired.network.shut()
        image = np.full((1, 1, 1), 255, np.uint8)
        tasks = [asyncio.ensure_future(wired.batcher.submit(wired.queue, [image])) for _ in range(6)]
        assert await asyncio.to_thread(wired.network.entered.acquire, timeout=60)
        assert not wired.lane.stop(0)  # told, but still busy
        wired.network.gate.set()
        assert await asyncio.to_thread(wired.lane.stop, 60)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert [answer.probabilities.tolist() for answer in answers] == [[[1.0, 0.0]]] * 6

    asyncio.run(scenario())


def test_stopping_ends_every_thread_that_waits_for_something_to_do(wire) -> None:
    async def scenario() -> None:
        wake = CountingCondition()
        wired = wire(lanes=4, wake=wake)
        for _ in range(4):
            assert wake.waits.acquire(timeout=60)
        assert wired.lane.stop(20)

    asyncio.run(scenario())


def test_stopping_waits_once_for_all_threads_and_not_once_for_each(lane) -> None:
    held, holder, done = lane(16), Holder(), []
    for _ in range(16):
        held.call(holder)
    for _ in range(16):
        assert holder.entered.acquire(timeout=60)
    stopping = threading.Thread(target=lambda: done.append(held.stop(1.0)))
    stopping.start()
    stopping.join(10)  # sixteen waits of a second would take longer
    in_time = not stopping.is_alive()
    holder.gate.set()
    stopping.join()
    assert in_time
    assert done == [False]
    assert held.stop(60)


def test_a_thread_that_is_still_busy_is_told(lane) -> None:
    two, holder = lane(2), Holder()
    two.call(holder)
    assert holder.entered.acquire(timeout=60)
    assert two.stop(0) is False
    holder.gate.set()
    assert two.stop(60) is True


@pytest.mark.parametrize("lanes", [1, 4])
def test_as_many_batches_run_at_the_same_time_as_there_are_lanes(
    start_server, gates, waiting: Callable[..., float], lanes: int
) -> None:
    running = start_server(open_network=gates, lanes=lanes, model_batch_sizes={MODEL: [16]})
    network = gates[MODEL]
    network.shut()
    with running.client() as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.classify, MODEL, [PIXELS] * 80)
        for _ in range(lanes):
            assert network.entered.acquire(timeout=60)
        assert not network.entered.acquire(blocking=False)
        assert waiting(running) == 80 - lanes * 16
        network.gate.set()
        assert len(answer.result()) == 80
    assert network.batches == [16] * 5


def test_the_threads_of_a_lane_are_those_of_the_setting(start_server, gates) -> None:
    start_server(open_network=gates, intra_op_threads=3)
    assert {name: device.threads for name, device in gates.devices.items()} == dict.fromkeys(
        gates.networks, 3
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_has_the_threads_of_its_device(
    exported: dict[str, pipeline.Exported], threads: int
) -> None:
    path = exported[MODEL].folder / exported[MODEL].manifest.precisions[0].file.name
    options = open_session(path, Device("cpu", None, threads)).get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize(("macs", "threads"), [(999_999, 1), (1_000_000, 3), (0, 3)])
def test_a_tiny_network_runs_on_one_thread_where_its_size_is_known(
    exported: dict[str, pipeline.Exported], macs: float, threads: int
) -> None:
    manifest = manifest_pb2.Manifest()
    manifest.CopyFrom(exported[MODEL].manifest)
    manifest.macs = macs
    path = exported[MODEL].folder / manifest.precisions[0].file.name
    network = opening.open_network(path, manifest, Device("cpu", None, 3), [4])
    assert isinstance(network, OnnxNetwork)
    assert network._runs._session.get_session_options().intra_op_num_threads == threads
