"""What happens around every call: statuses without secrets, counts that add up, bounds that are released."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from client import ClientError
from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc
from server.rpc.context import Methods
from server.rpc.handlers import Handler, Handlers, parser, why_cancelled
from tests.server.listening import Port, listening
from tests.server.progress import wait_for

MODEL = "lenet5-digits"
PIXELS = np.zeros((32, 32, 1), np.uint8)
SERVICE = "modelzoo.v1.ClassifierService"
SECRET = b"what the client's picture shows"
REQUEST = classifier_pb2.ClassifyRequest(model="m", images=[classifier_pb2.Image(encoded=SECRET)])
ANSWER = classifier_pb2.ClassifyResponse(model="m", version=7)
Request = classifier_pb2.ClassifyRequest


class Served:
    """A handler behind a real port."""

    def __init__(self, port: Port) -> None:
        self.port, self.in_flight, self.log = port, port.in_flight, port.log
        self.call = port.channel.unary_unary(f"/{SERVICE}/Classify")

    def count(self, name: str, **labels: str) -> float | None:
        rpc = {"grpc_type": "unary", "grpc_service": SERVICE, "grpc_method": "Classify"}
        return self.port.registry.get_sample_value(name, rpc | labels)

    def handled(self) -> dict[str, float]:
        """The calls that ended, by their status, without the zeros."""
        names = {code: code.name.title().replace("_", "") for code in grpc.StatusCode}
        names[grpc.StatusCode.OK] = "OK"
        counts = {
            code.name: self.count("grpc_server_handled_total", grpc_code=name) for code, name in names.items()
        }
        return {code: count for code, count in counts.items() if count}


@asynccontextmanager
async def served(
    handler: Handler[Request], form: str = "json", max_bytes: int = 1 << 20, max_fields: int = 16
) -> AsyncIterator[Served]:
    def methods(all_: Handlers) -> Methods:
        parse = parser(Request, max_fields)
        return {f"/{SERVICE}/Classify": all_.unary(SERVICE, "Classify", parse, handler)}

    async with listening(methods, max_bytes=max_bytes, form=form) as port:
        yield Served(port)


async def refusal(call: "Awaitable[bytes]") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def break_down(request: Request, deadline_s: float | None) -> bytes:
    picture = request.images[0].encoded
    raise RuntimeError(f"table {len(picture)} of the back room fell over")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_unexpected_error_is_told_to_the_log_and_not_to_the_client(form: str) -> None:
    async def scenario() -> None:
        async with served(break_down, form) as it:
            error = await refusal(it.call(REQUEST.SerializeToString()))
            assert error.code() == grpc.StatusCode.INTERNAL
            assert error.details() == "internal error; the server's log has it"
            assert "back room" not in repr((error, error.trailing_metadata(), error.debug_error_string()))
            assert it.handled() == {"INTERNAL": 1}
            await it.in_flight.idle.wait()
        written = it.log.getvalue()
        for part in ("call_failed", f"/{SERVICE}/Classify", "RuntimeError", "31 of the back room"):
            assert part in written
        assert SECRET.decode() not in written
        assert "encoded:" not in written
        assert "locals" not in written

    asyncio.run(scenario())


def test_a_failure_is_one_event_in_the_log() -> None:
    async def scenario() -> None:
        async with served(break_down) as it:
            for _ in range(3):
                await refusal(it.call(REQUEST.SerializeToString()))
        events = [json.loads(line) for line in it.log.getvalue().splitlines()]
        assert [(event["event"], event["level"]) for event in events] == [("call_failed", "error")] * 3

    asyncio.run(scenario())


def test_an_answer_is_counted_once_and_leaves_nothing_in_flight() -> None:
    async def answer(request: Request, deadline_s: float | None) -> bytes:
        assert (request, deadline_s) == (REQUEST, None)
        return ANSWER.SerializeToString()

    async def scenario() -> None:
        async with served(answer) as it:
            assert it.in_flight.idle.is_set()
            body = await it.call(REQUEST.SerializeToString())
            assert classifier_pb2.ClassifyResponse.FromString(body) == ANSWER
            await it.in_flight.idle.wait()
            assert it.count("grpc_server_started_total") == 1
            assert it.handled() == {"OK": 1}
            assert it.count("grpc_server_handling_seconds_count") == 1
            assert it.log.getvalue() == ""

    asyncio.run(scenario())


def test_a_client_that_hangs_up_is_cancelled_and_one_that_is_late_exceeded_its_deadline() -> None:
    arrived = asyncio.Semaphore(0)

    async def never_answer(request: Request, deadline_s: float | None) -> bytes:
        arrived.release()
        await asyncio.Event().wait()
        return ANSWER.SerializeToString()

    async def scenario() -> None:
        async with served(never_answer) as it:
            for timeout_s in (None, 600):
                call = it.call(b"", timeout=timeout_s)
                await arrived.acquire()
                assert not it.in_flight.idle.is_set()
                call.cancel()
                await it.in_flight.idle.wait()
            assert it.handled() == {"CANCELLED": 2}
            for _ in range(50):
                error = await refusal(it.call(b"", timeout=0.05))
                assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await it.in_flight.idle.wait()
            started = it.count("grpc_server_started_total")
            assert it.handled() == {"CANCELLED": 2, "DEADLINE_EXCEEDED": started - 2}
            assert started > 2
            assert it.count("grpc_server_handling_seconds_count") == started

    asyncio.run(scenario())


def test_why_a_call_was_cancelled_is_told_by_its_deadline() -> None:
    now_s = time.monotonic()
    assert why_cancelled(None) == grpc.StatusCode.CANCELLED
    assert why_cancelled(now_s + 60) == grpc.StatusCode.CANCELLED
    assert why_cancelled(now_s) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert why_cancelled(now_s + 0.01) == grpc.StatusCode.DEADLINE_EXCEEDED  # a client's clock is ahead
    assert why_cancelled(now_s - 60) == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture
def small(start_server, gates):
    """A server that takes 64 KiB of requests at a time, and its gate."""
    running = start_server(open_network=gates, max_message_bytes=1 << 16, max_bytes_in_flight=1 << 16)
    return running, gates[MODEL]


def test_requests_too_large_together_are_refused_until_the_first_are_answered(small) -> None:
    running, network = small
    network.shut()
    with running.client() as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.classify, MODEL, [PIXELS] * 40)  # 41 KB
        network.entered.acquire()
        assert len(client.list_models()) == 1  # small ones fit beside it
        with pytest.raises(ClientError, match="bytes in flight") as caught:
            client.classify(MODEL, [PIXELS] * 40)
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.retry_delay_s == 0.5
        network.gate.set()
        assert len(first.result()) == 40
        for _ in range(5):  # neither the answered nor the refused still count
            assert len(client.classify(MODEL, [PIXELS] * 60)) == 60


def test_what_was_in_flight_is_given_back_however_a_call_ends(small) -> None:
    running, network = small
    bad = [np.zeros((31, 32, 1), np.uint8)] * 60
    network.shut()
    with running.client() as client:
        with grpc.insecure_channel(running.address) as channel:
            images = [
                classifier_pb2.Image(
                    pixels=classifier_pb2.Pixels(height=32, width=32, channels=1, data=PIXELS.tobytes())
                )
            ] * 60
            request = classifier_pb2.ClassifyRequest(model=MODEL, images=images)
            gone = classifier_pb2_grpc.ClassifierServiceStub(channel).Classify.future(request)
            network.entered.acquire()
            gone.cancel()
        network.gate.set()
        wait_for(running.front.in_flight.idle.is_set)
        for _ in range(3):
            with pytest.raises(ClientError, match="pixels of shape"):
                client.classify(MODEL, bad)
        assert len(client.classify(MODEL, [PIXELS] * 60)) == 60


@pytest.mark.parametrize(
    ("method", "most"), [("Classify", 4 * 256 + 16), ("ListModels", 16), ("GetModel", 16)]
)
def test_as_many_fields_as_allowed_are_parsed_and_one_more_is_refused(server, method: str, most: int) -> None:
    field_ = b"\x7a\x00"  # number 15, which nobody knows and protobuf passes over
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(field_ * (most + 1))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == f"request: more than {most} fields, images included"
        if method == "ListModels":
            assert len(classifier_pb2.ListModelsResponse.FromString(call(field_ * most)).models) == 3
        else:
            with pytest.raises(grpc.RpcError) as caught:
                call(field_ * most)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # it was read, and names no model
