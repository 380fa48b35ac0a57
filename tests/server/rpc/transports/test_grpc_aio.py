"""The port of gRPC: no path ends it, and where its accept loop fails all the same, it is opened anew."""

import asyncio
import gzip
import json
from collections import Counter
from contextlib import ExitStack
from functools import partial

import grpc
import pytest

from modelzoo.v1 import classifier_pb2
from server.rpc.call import Call
from server.rpc.context import Methods
from server.rpc.handlers import Handlers
from server.rpc.transports.grpc_aio import sockets_of_poller
from tests.server import listening as listening_
from tests.server.listening import Port, listening
from tests.server.progress import wait_for
from tests.server.raw_peer import RawPeer, prefixed

PATHS = [b"/\xff", b"", b"/", b"\xff\xfe", b"//", b"/a.B/C\x00", b"/\xf0\x28\x8c\x28", b"*", b"/a" * 2000]


@pytest.fixture(autouse=True)
def by_grpc_aio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_, "chosen", ["grpc"])


def methods(handlers: Handlers) -> Methods:
    async def echo(call: Call, deadline_s: float | None) -> None:
        while (body := await call.read()) is not None:
            await call.write(body)

    return {"/test.Echo/Echo": handlers.other("bidi_stream", "test.Echo", "Echo", echo)}


async def echoed(port: Port, text: bytes) -> bytes:
    call = port.channel.stream_stream("/test.Echo/Echo")(wait_for_ready=True)
    await call.write(text)
    answer = await call.read()
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK
    return answer


def replaced(port: Port, server: object) -> bool:
    return port.listener.servers != [] and server not in port.listener.servers


def unknown(port: Port, name: str, **labels: str) -> float | None:
    labels |= {"grpc_type": "unary", "grpc_service": "_unknown", "grpc_method": "_unknown"}
    return port.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("path", PATHS)
def test_a_call_of_any_path_is_answered_counted_and_ends_nothing(path: bytes) -> None:
    async def scenario() -> None:
        async with listening(methods) as port:
            for _ in range(3):
                with RawPeer(port.address) as peer:
                    ended = await asyncio.to_thread(lambda: peer.end_of(peer.call(path, half_closed=True)))
                assert ended.get(b"grpc-status", b"12") == b"12"  # unless HTTP/2 itself rejects such a path
                assert await echoed(port, b"still here") == b"still here"
            count = unknown(port, "grpc_server_started_total")
            assert unknown(port, "grpc_server_handled_total", grpc_code="Unimplemented") == count
            assert port.log.getvalue() == ""

    asyncio.run(scenario())


def test_a_crash_of_the_accept_loop_is_logged_and_the_port_opened_anew_and_calls_go_on() -> None:
    async def scenario() -> None:
        async with listening(methods) as port:
            before = port.channel.stream_stream("/test.Echo/Echo")()
            await before.write(b"begun before")
            assert await before.read() == b"begun before"
            for crash in range(3):
                [server] = port.listener.servers
                server.end(OSError(f"crash {crash}"))
                await asyncio.to_thread(wait_for, partial(replaced, port, server))
                async with grpc.aio.insecure_channel(
                    port.address, options=[("grpc.use_local_subchannel_pool", 1)]
                ) as channel:
                    # One that came to the old port in its last moment would have to come again.
                    call = channel.stream_stream("/test.Echo/Echo")(wait_for_ready=True)
                    await call.write(b"begun after")
                    assert await call.read() == b"begun after"
                    await call.done_writing()
                    assert await call.code() == grpc.StatusCode.OK
                await before.write(b"goes on")
                assert await before.read() == b"goes on"
            await before.done_writing()
            assert await before.code() == grpc.StatusCode.OK
            assert await echoed(port, b"by the old channel") == b"by the old channel"
            events = [json.loads(line) for line in port.log.getvalue().splitlines()]
            assert [event["event"] for event in events] == ["vital_task_ended", "vital_task_repaired"] * 3
            assert [f"crash {crash}" in str(events[2 * crash]) for crash in range(3)] == [True] * 3
            assert port.faults.healthy() == ""
            failures = partial(port.registry.get_sample_value, "modelzoo_vital_task_failures_total")
            assert failures({"task": "accept_loop"}) == 3

    asyncio.run(scenario())


def test_of_several_queues_one_that_crashes_is_opened_anew_and_the_others_go_on() -> None:
    async def scenario() -> None:
        async with listening(methods, queues=4) as port:
            kept = port.listener.servers.copy()
            for crash in range(2):
                server = kept.pop(0)
                server.end(OSError(f"crash {crash}"))
                await asyncio.to_thread(wait_for, partial(replaced, port, server))
                await asyncio.to_thread(wait_for, lambda: len(port.listener.servers) == 4)
                assert set(kept) <= set(port.listener.servers)
                for _ in range(12):  # by whichever of them
                    with RawPeer(port.address) as peer:
                        ended = await asyncio.to_thread(
                            peer.end_of, peer.call(b"/test.Echo/E", half_closed=True)
                        )
                    assert ended[b"grpc-status"] == b"12"
            failures = partial(port.registry.get_sample_value, "modelzoo_vital_task_failures_total")
            assert failures({"task": "accept_loop"}) == 2

    asyncio.run(scenario())


def test_a_flood_of_calls_on_one_connection_does_not_go_before_all_calls_of_others() -> None:
    flood, others, came, all_came = 1000, 8, [], asyncio.Event()

    def noting(handlers: Handlers) -> Methods:
        async def note(call: Call, deadline_s: float | None) -> None:
            came.append(call.connection.peer)
            if len(came) == flood + others:
                all_came.set()

        return {"/test.Note/Note": handlers.other("bidi_stream", "test.Note", "Note", note)}

    async def scenario() -> None:
        async with listening(noting, queues=16) as port:
            with RawPeer(port.address) as first, ExitStack() as stack:
                peers = [stack.enter_context(RawPeer(port.address)) for _ in range(others)]
                for _ in range(flood):  # the event loop stands still meanwhile
                    first.call(b"/test.Note/Note", half_closed=True)
                for peer in peers:
                    peer.call(b"/test.Note/Note", half_closed=True)
                await all_came.wait()
        [flooding] = [peer for peer, count in Counter(came).items() if count == flood]
        # Some may share a queue with the flood; that all do is as likely as one in 16 to the power of 8.
        assert next(at for at, peer in enumerate(came) if peer != flooding) < flood // 2

    asyncio.run(scenario())


def test_the_poller_of_grpc_never_waits_for_the_event_loop() -> None:
    async def scenario() -> None:
        async with listening(methods) as port:
            assert await echoed(port, b"it runs") == b"it runs"
            ends = sockets_of_poller()
            assert len(ends) == 2
            assert not any(end.getblocking() for end in ends)

    asyncio.run(scenario())


def test_pings_without_number_are_answered_and_hold_up_nobody(server) -> None:
    with RawPeer(server.address) as flood, RawPeer(server.address) as other:
        for number in range(2000):
            flood.ping(number)
        for peer in (flood, other):
            assert peer.end_of(peer.call(b"/no/method", half_closed=True))[b"grpc-status"] == b"12"
        assert not flood.closed


def test_where_few_connections_may_be_they_share_few_queues(start_server) -> None:
    assert len(start_server(transport="grpc", max_connections=4096).front._transport.servers) == 16
    few = start_server(transport="grpc", max_connections=255)
    assert len(few.front._transport.servers) == 1
    with few.client() as client:
        assert client.is_serving()


def test_a_half_closed_call_without_a_message_gets_the_status_of_grpc(server) -> None:
    for path in (b"/modelzoo.v1.ClassifierService/Classify", b"/grpc.health.v1.Health/Check"):
        with RawPeer(server.address) as peer:
            ended = peer.end_of(peer.call(path, half_closed=True))
        assert ended[b"grpc-status"] == b"12"
        assert ended[b"grpc-message"].startswith(b"no request message")


def test_a_message_that_is_too_large_is_rejected_by_its_prefix_and_counted(server, reading) -> None:
    labels = {
        "grpc_type": "unary",
        "grpc_service": "modelzoo.v1.ClassifierService",
        "grpc_method": "Classify",
    }
    before = reading(server, "grpc_server_started_total", **labels)
    with RawPeer(server.address) as peer:
        stream = peer.call(b"/modelzoo.v1.ClassifierService/Classify")
        peer.send(stream, prefixed(bytes(65 << 20))[: 1 << 16])
        assert peer.end_of(stream)[b"grpc-status"] == b"8"
    assert reading(server, "grpc_server_started_total", **labels) == before + 1


@pytest.mark.parametrize("frontends", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_path_that_is_no_text_ends_no_port_of_a_server(start_server, frontends: int) -> None:
    running = start_server(transport="grpc", frontends=frontends)
    for path in (
        b"/\xff",
        b"/grpc.health.v1.Health/\xff",
        b"/modelzoo.v1.ClassifierService/Classify\xc3\x28",
    ):
        for _ in range(4):  # with front ends, each gets some
            with RawPeer(running.address) as peer:
                assert peer.end_of(peer.call(path, half_closed=True))[b"grpc-status"] == b"12"
    for _ in range(8):
        with running.client() as client:
            assert client.is_serving()


def test_a_connection_is_asked_to_go_at_its_age_and_closed_after_its_grace(start_server) -> None:
    running = start_server(transport="grpc", max_connection_age_s=1, max_connection_age_grace_s=0.1)
    with running.client() as client, RawPeer(running.address) as peer:
        stream = peer.call(b"/modelzoo.v1.ClassifierService/ClassifyStream")
        peer.wait_closed()
        assert stream not in peer.headers
        assert client.is_serving()  # by a new connection, if need be


def test_where_compressed_messages_are_accepted_they_are_small_and_calls_are_few(start_server) -> None:
    running = start_server(transport="grpc", accept_compressed=True)
    limits = running.front.calls.limits
    assert (limits.max_calls, limits.max_calls_per_connection) == (128, 128)  # 512 MiB of 4 MiB each
    path, gzip_header = b"/modelzoo.v1.ClassifierService/Classify", [(b"grpc-encoding", b"gzip")]
    with RawPeer(running.address) as peer:
        for size, status in ((4 << 20, b"5"), ((4 << 20) + 1, b"8")):  # not found, or too large
            image = classifier_pb2.Image(encoded=bytes(size - 18))
            message = classifier_pb2.ClassifyRequest(model="m", images=[image]).SerializeToString()
            message += bytes([0x7A, size - len(message) - 2]) + bytes(size - len(message) - 2)
            assert len(message) == size
            stream = peer.call(path, gzip_header)
            peer.send(stream, prefixed(gzip.compress(message), compressed=True), half_closed=True)
            assert peer.end_of(stream)[b"grpc-status"] == status
