"""What peers can make the server hold by calling: calls, bytes and connections, each within its bound."""

import asyncio
import base64
import contextlib
import gc
import json
import os
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelzoo.v1 import classifier_pb2
from server.errors import InvalidRequestError
from server.rpc.call import Call
from server.rpc.connections import Connection, Socket
from server.rpc.context import Methods
from server.rpc.handlers import Handlers, parser
from server.rpc.limits import Limits
from server.rpc.streams import Answers
from tests.server import listening as listening_
from tests.server.listening import Port, limits, listening
from tests.server.progress import wait_for
from tests.server.raw_peer import RawPeer, prefixed

SERVICE = "test.Service"
UNARY, STREAM, PROBE, ECHO = (f"/{SERVICE}/{name}" for name in ("Unary", "Stream", "Probe", "Echo"))
Request = classifier_pb2.ClassifyRequest
MEGABYTE = 1 << 20


async def answer(request: Request, deadline_s: float | None) -> bytes:
    if request.model == "invalid":
        raise InvalidRequestError("model", "as the test wants it")
    if request.model == "broken":
        raise ValueError("as the test wants it")
    if request.model == "large":
        return Request(model="m" * request.version).SerializeToString()
    return Request(model="answer").SerializeToString()


def methods(handlers: Handlers) -> Methods:
    async def echo(call: Call, deadline_s: float | None) -> None:
        while (body := await call.read()) is not None:
            await call.write(body)
            call.leave(len(body), 1)

    parse = parser(Request)
    return {
        UNARY: handlers.unary(SERVICE, "Unary", parse, answer),
        STREAM: handlers.stream(
            SERVICE, "Stream", Answers(parse, answer, lambda _, error: Request(model=str(error)))
        ),
        PROBE: handlers.unary(SERVICE, "Probe", parse, answer, handlers.calls.probes),
        ECHO: handlers.other("bidi_stream", SERVICE, "Echo", echo),
    }


def run(
    scenario: Callable[[Port], Awaitable[None]], bounds: Limits | None = None, max_bytes: int = 1 << 30
) -> None:
    async def serve() -> None:
        async with listening(methods, bounds, max_bytes) as port:
            await scenario(port)
            await asyncio.to_thread(wait_for, partial(nothing_is_held, port, max_bytes))

    asyncio.run(serve())


def counted(port: Port, name: str) -> float:
    return sum(
        sample.value
        for family in port.registry.collect()
        for sample in family.samples
        if sample.name == f"grpc_server_{name}_total"
    )


def nothing_is_held(port: Port, max_bytes: int) -> bool:
    """All in one look: calls that were reset may still come, and go, after others have ended."""
    room = port.in_flight
    nothing_in_flight = room.idle.is_set() and room.excess_bytes == -max_bytes + room.unfinished_bytes
    return all_ended(port) and nothing_in_flight and not port.calls.waiting


def all_ended(port: Port) -> bool:
    open_ = port.calls.ordinary.calls + port.calls.probes.calls
    return counted(port, "started") == counted(port, "handled") and not open_


async def classify(port: Port, model: str = "m", path: str = UNARY, padding: int = 0) -> Request:
    call = port.channel.unary_unary(path, Request.SerializeToString, Request.FromString)
    return await call(Request(model=model, images=[classifier_pb2.Image(encoded=bytes(padding))]))


def retry_delay_s(trailers: dict[bytes, bytes]) -> float:
    status = status_pb2.Status.FromString(base64.b64decode(trailers[b"grpc-status-details-bin"] + b"=="))
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    return info.retry_delay.ToNanoseconds() / 1e9


@pytest.mark.parametrize("model", ["invalid", "broken"])
@pytest.mark.parametrize("path", [UNARY, STREAM])
def test_a_rejected_request_is_not_kept_alive_by_its_error(model: str, path: str) -> None:
    async def scenario(port: Port) -> None:
        body = Request(
            model=model, images=[classifier_pb2.Image(encoded=bytes(4 * MEGABYTE))]
        ).SerializeToString()
        call = port.channel.stream_stream(path)
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(8):
                one = call()
                await one.write(body)
                await one.done_writing()
                if path == STREAM:
                    await one.read()
                await one.code()
            del one
            await asyncio.to_thread(wait_for, partial(all_ended, port))
            kept, _ = tracemalloc.get_traced_memory()
            assert kept < 4 * MEGABYTE
        finally:
            tracemalloc.stop()
            gc.enable()

    run(scenario)


def test_a_thousand_callers_on_one_connection_are_all_answered() -> None:
    async def scenario(port: Port) -> None:
        answers = await asyncio.gather(*(classify(port) for _ in range(1000)))
        assert {one.model for one in answers} == {"answer"}

    run(scenario)


def test_calls_of_one_connection_beyond_its_share_are_rejected_with_a_time_to_come_back_and_counted() -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as peer:
            calls = {peer.call(UNARY.encode()) for _ in range(5)}
            [one] = await asyncio.to_thread(peer.first_ended)  # the last that came, which a transport decides
            rejected = peer.end_of(one)
            assert rejected[b"grpc-status"] == b"8"
            assert rejected[b"grpc-message"] == b"calls of this connection: 4 of 4 open"
            assert retry_delay_s(rejected) == 0.5
            assert peer.ended.keys() & calls == {one}
            assert (await classify(port)).model == "answer"  # another connection
        codes = {
            "grpc_type": "unary",
            "grpc_service": SERVICE,
            "grpc_method": "Unary",
            "grpc_code": "ResourceExhausted",
        }
        assert port.registry.get_sample_value("grpc_server_handled_total", codes) == 1

    run(scenario, limits(max_calls=64, max_calls_per_connection=4))


@pytest.mark.parametrize("path", [UNARY, STREAM, ECHO])
def test_quiet_calls_give_way_to_others_and_never_keep_health_checks_out(path: str) -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as first, RawPeer(port.address) as second:
            quiet = []
            for peer in (second, first, first, first, first, second):
                quiet.append(peer.call(path.encode()))
                await asyncio.to_thread(wait_for, lambda: port.calls.ordinary.calls == len(quiet))
            for _ in range(3):
                assert (await classify(port)).model == "answer"
                assert (await classify(port, path=PROBE)).model == "answer"
            evicted = await asyncio.to_thread(
                first.end_of, quiet[1]
            )  # the busiest connection's that waited longest
            assert evicted[b"grpc-status"] == b"8"
            assert evicted[b"grpc-message"].startswith(b"calls: 6 open, this one waited longest")
            assert retry_delay_s(evicted) == 0.5
            assert second.ended == {}

    run(scenario, limits(max_calls=6, max_calls_per_connection=6))


@pytest.mark.parametrize(
    ("path", "begun"), [(UNARY, b""), (UNARY, prefixed(bytes(100))[:50]), (STREAM, b""), (ECHO, b"")]
)
def test_a_call_whose_peer_sends_nothing_is_ended_after_a_while(path: str, begun: bytes) -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as peer:
            stream = peer.call(path.encode())
            await asyncio.to_thread(peer.send, stream, begun)
            ended = await asyncio.to_thread(peer.end_of, stream)
        assert ended[b"grpc-status"] == b"14"
        assert ended[b"grpc-message"] == b"no message within 0.2 s; call again"

    run(scenario, limits(max_idle_s=0.2))


@pytest.mark.parametrize("path", [UNARY, STREAM])
def test_a_peer_that_does_not_read_its_answers_loses_its_connection_and_what_they_held(path: str) -> None:
    body = prefixed(Request(model="large", version=MEGABYTE).SerializeToString())

    async def scenario(port: Port) -> None:
        with RawPeer(port.address, window=1) as peer:
            for _ in range(4):
                stream = peer.call(path.encode())
                await asyncio.to_thread(peer.send, stream, body, half_closed=path == UNARY)
            # Where the kernel is asked what is unread, it knows of frames, a little more than the answers.
            await asyncio.to_thread(
                wait_for, lambda: port.in_flight.excess_bytes + (1 << 30) >= 3.9 * MEGABYTE
            )
            assert (await classify(port)).model == "answer"
            await asyncio.to_thread(peer.wait_closed)
        assert [json.loads(line)["event"] for line in port.log.getvalue().splitlines()] == ["connection_cut"]

    run(scenario, limits(max_idle_s=0.5))


def test_answers_that_are_not_read_count_until_there_is_no_room_for_more() -> None:
    body = prefixed(Request(model="large", version=MEGABYTE).SerializeToString())

    async def scenario(port: Port) -> None:
        with RawPeer(port.address, window=1) as peer:
            streams = [peer.call(UNARY.encode()) for _ in range(6)]
            for stream in streams:
                await asyncio.to_thread(peer.send, stream, body, half_closed=True)
            await asyncio.to_thread(wait_for, lambda: counted(port, "handled") == 6)
            assert port.in_flight.excess_bytes <= 0
            assert (await classify(port)).model == "answer"

    run(scenario, limits(max_bytes_per_connection=3 * MEGABYTE), max_bytes=6 * MEGABYTE)


@pytest.mark.parametrize("path", [UNARY, STREAM, ECHO])
def test_messages_that_are_never_whole_are_counted_and_dropped_when_they_are_too_much(path: str) -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as peer:
            streams = [peer.call(path.encode()) for _ in range(5)]
            for stream in streams:
                await asyncio.to_thread(peer.send, stream, prefixed(bytes(MEGABYTE))[: MEGABYTE // 2])
                assert (await classify(port, padding=10_000)).model == "answer"
            ended = [await asyncio.to_thread(peer.end_of, stream) for stream in streams[:2]]
        for one in ended:
            assert one[b"grpc-status"] == b"8"
            assert b"bytes of unfinished messages on this connection" in one[b"grpc-message"]
            assert retry_delay_s(one) == 0.5

    run(scenario, limits(max_bytes_per_connection=2 * MEGABYTE), max_bytes=8 * MEGABYTE)


def test_a_connection_whose_messages_are_dropped_again_is_closed() -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as peer:
            ended = partial(port.registry.get_sample_value, "modelzoo_peer_limits_total", {"limit": "bytes"})
            for dropped in (5, 6):  # calls, and then the connection
                for _ in range(5):
                    await asyncio.to_thread(
                        peer.send, peer.call(UNARY.encode()), prefixed(bytes(MEGABYTE))[: MEGABYTE // 2]
                    )
                await asyncio.to_thread(wait_for, lambda: ended() >= dropped)  # noqa: B023
            await asyncio.to_thread(peer.wait_closed)
        assert (await classify(port)).model == "answer"

    run(scenario, limits(max_bytes_per_connection=2 * MEGABYTE), max_bytes=8 * MEGABYTE)


def test_peers_that_fill_the_room_with_unfinished_messages_lock_nobody_out() -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as first, RawPeer(port.address) as second:
            for peer in (first, second):
                await asyncio.to_thread(
                    peer.send,
                    peer.call(UNARY.encode()),
                    prefixed(bytes(3 * MEGABYTE))[: 2 * MEGABYTE - 50_000],
                )
            await asyncio.to_thread(wait_for, lambda: port.in_flight.unfinished_bytes > 3.8 * MEGABYTE)
            codes = []
            while not codes or codes[-1] == grpc.StatusCode.RESOURCE_EXHAUSTED:
                try:
                    await classify(port, padding=MEGABYTE)
                    codes.append(grpc.StatusCode.OK)
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())
            assert codes[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert codes[-1] == grpc.StatusCode.OK
        assert port.registry.get_sample_value("modelzoo_peer_limits_total", {"limit": "bytes"}) >= 1

    run(scenario, limits(max_bytes_per_connection=2 * MEGABYTE), max_bytes=4 * MEGABYTE)


@pytest.mark.parametrize(("held", "answered"), [(0, True), (400_000, True), (600_000, False)])
def test_a_connection_that_holds_little_is_answered_from_a_reserve_that_has_an_end(
    held: int, answered: bool
) -> None:
    async def scenario(port: Port) -> None:
        port.in_flight.enter(8 * MEGABYTE + held)  # a sixteenth beyond 8 MB are 500 kB
        try:
            with pytest.raises(grpc.aio.AioRpcError, match="bytes in flight"):
                await classify(port, padding=100_000)  # more than a 512th of the room
            if answered:
                assert (await classify(port)).model == "answer"
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="bytes in flight"):
                    await classify(port)
        finally:
            port.in_flight.leave(8 * MEGABYTE + held)

    run(scenario, max_bytes=8 * MEGABYTE)


def test_many_connections_that_hold_little_are_as_bad_as_one_that_holds_much() -> None:
    async def scenario(port: Port) -> None:
        peers = [RawPeer(port.address) for _ in range(80)]
        for peer in peers:
            await asyncio.to_thread(peer.send, peer.call(UNARY.encode()), prefixed(bytes(MEGABYTE))[:60_000])
        while True:  # under 1/64 of the room each, and more than all of it together
            with contextlib.suppress(grpc.aio.AioRpcError):
                await classify(port, padding=MEGABYTE)
                break
        for peer in peers:
            peer.__exit__(None, None, None)

    run(scenario, limits(max_bytes_per_connection=4 * MEGABYTE), max_bytes=4 * MEGABYTE)


def test_health_checks_are_answered_while_there_is_no_room_for_a_byte_more() -> None:
    async def scenario(port: Port) -> None:
        port.in_flight.enter(16 * MEGABYTE)
        try:
            with pytest.raises(grpc.aio.AioRpcError, match="bytes in flight"):
                await classify(port)
            assert (await classify(port, path=PROBE)).model == "answer"
        finally:
            port.in_flight.leave(16 * MEGABYTE)

    run(scenario, max_bytes=8 * MEGABYTE)


def test_calls_that_are_reset_explain_nothing_of_what_another_holds() -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as peer:
            large = peer.call(UNARY.encode())
            body = prefixed(bytes(8 * MEGABYTE))

            def send() -> None:
                for part in range(6):
                    peer.send(large, body[part * MEGABYTE : (part + 1) * MEGABYTE])
                    for _ in range(20):
                        peer.reset(peer.call(UNARY.encode()))

            await asyncio.to_thread(send)
            ended = await asyncio.to_thread(peer.end_of, large)
        assert ended[b"grpc-status"] == b"8"
        assert b"unfinished messages" in ended[b"grpc-message"]

    run(scenario, limits(max_bytes_per_connection=4 * MEGABYTE), max_bytes=64 * MEGABYTE)


def test_what_is_explained_after_a_measurement_stays_explained() -> None:
    connection = Connection("ipv4:127.0.0.1:1", ("127.0.0.1", 1), calls={"pool": 1}, explained_bytes=100)
    connection.explained_bytes += 60  # read while the kernel was asked
    connection.explain(110, explained_bytes=100)
    assert (connection.explained_bytes, connection.unfinished_bytes) == (160, 0)
    connection.explain(170, explained_bytes=160)
    assert (connection.explained_bytes, connection.unfinished_bytes) == (160, 10)
    connection.explain(150, explained_bytes=160)  # headers came compressed
    assert (connection.explained_bytes, connection.unfinished_bytes) == (150, 0)


def test_what_is_unread_is_what_was_answered_and_not_acknowledged_beyond_what_calls_hold() -> None:
    connection = Connection("ipv4:127.0.0.1:1", ("127.0.0.1", 1), calls={"pool": 1})
    connection.acknowledge(300, now_s=1.0)  # settings, headers
    connection.answered_bytes += 1000
    connection.acknowledge(400, now_s=2.0)
    assert (connection.unread_bytes, connection.read_s) == (900, 2.0)
    connection.held_bytes = 250  # of an answer that a call counts itself
    connection.acknowledge(400, now_s=3.0)
    assert (connection.unread_bytes, connection.read_s) == (650, 2.0)
    connection.held_bytes = 0
    connection.acknowledge(1400, now_s=4.0)  # frames take more than what is in them
    assert (connection.unread_bytes, connection.read_s) == (0, 4.0)
    connection.answered_bytes += 1000
    connection.acknowledge(1400, now_s=5.0)
    assert (connection.unread_bytes, connection.read_s) == (1000, 4.0)
    connection.forget_unread()  # its streams were reset
    connection.acknowledge(1400, now_s=6.0)
    assert (connection.unread_bytes, connection.read_s) == (0, 6.0)


def test_a_connection_without_calls_owes_no_answer() -> None:
    async def scenario(port: Port) -> None:
        assert (await classify(port)).model == "answer"
        [connection] = port.calls.connections.values()
        await asyncio.to_thread(wait_for, lambda: not connection.all_calls)
        assert (connection.answered_bytes, connection.unread_bytes) == (connection.acked_bytes, 0)

    run(scenario)


def test_a_socket_whose_descriptor_is_another_files_by_now_is_left_alone() -> None:
    with socket.socket() as one, Path(os.devnull).open() as other:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for file in (one, other):
            stranger = Socket(file.fileno(), inode=1)
            assert (stranger.traffic(), stranger.peer(1)) == (None, None)
            stranger.shut_down()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_large_message_that_comes_slowly_is_answered_and_explains_what_it_held() -> None:
    async def scenario(port: Port) -> None:
        body = prefixed(
            Request(model="m", images=[classifier_pb2.Image(encoded=bytes(3 * MEGABYTE))]).SerializeToString()
        )
        with RawPeer(port.address) as peer:
            for _ in range(3):
                stream = peer.call(UNARY.encode())
                await asyncio.to_thread(peer.send, stream, body[: 2 * MEGABYTE])
                await asyncio.to_thread(wait_for, lambda: port.in_flight.unfinished_bytes > MEGABYTE)
                await asyncio.to_thread(peer.send, stream, body[2 * MEGABYTE :], half_closed=True)
                assert (await asyncio.to_thread(peer.end_of, stream))[b"grpc-status"] == b"0"
                await asyncio.to_thread(wait_for, lambda: port.in_flight.unfinished_bytes == 0)

    run(scenario, limits(max_bytes_per_connection=4 * MEGABYTE), max_bytes=8 * MEGABYTE)


def test_many_small_requests_beside_an_idle_stream_explain_themselves() -> None:
    async def scenario(port: Port) -> None:
        stream = port.channel.stream_stream(STREAM)()
        await stream.write(b"")
        await stream.read()
        metadata = [("token", "x" * 500)]
        call = port.channel.unary_unary(UNARY)
        for number in range(300):
            await call(b"", metadata=[*metadata, ("trace", f"{number:0300d}")])
        await asyncio.to_thread(wait_for, lambda: bool(port.calls.connections))
        assert all(one.unfinished_bytes < 10_000 for one in port.calls.connections.values())
        await stream.done_writing()
        await stream.code()

    run(scenario)


def test_idle_connections_are_closed_when_there_are_nearly_too_many() -> None:
    async def scenario(port: Port) -> None:
        peers = [RawPeer(port.address) for _ in range(12)]

        def closed() -> int:
            for peer in peers:
                peer.receive(0.001)
            return sum(peer.closed for peer in peers)

        await asyncio.to_thread(wait_for, lambda: closed() >= 4)
        assert (await classify(port)).model == "answer"
        for peer in peers:
            peer.__exit__(None, None, None)

    run(scenario, limits(max_connections=10))


def test_a_connection_that_is_used_again_and_again_is_not_the_one_that_has_been_idle_longest() -> None:
    async def scenario(port: Port) -> None:
        assert (await classify(port)).model == "answer"
        [oldest] = port.calls.connections
        crowd = [RawPeer(port.address) for _ in range(6)]  # with it, as many as there may be
        used = asyncio.create_task(use(port))

        def closed() -> int:
            for peer in crowd:
                peer.receive(0.001)
            return sum(peer.closed for peer in crowd)

        for wanted in (1, 3, 6):  # those that come take the place of those that do nothing
            await asyncio.to_thread(wait_for, partial(lambda wanted: closed() >= wanted, wanted))
            crowd += [RawPeer(port.address) for _ in range(3)]
        used.cancel()
        with pytest.raises(asyncio.CancelledError):  # no call of it failed
            await used
        assert list(port.calls.connections) == [oldest]
        for peer in crowd:
            peer.__exit__(None, None, None)

    async def use(port: Port) -> None:
        while True:
            await classify(port)
            await asyncio.sleep(0.02)  # the pace of a client, which is idle most of the time

    run(scenario, limits(max_connections=8))


def test_a_guard_that_fails_is_counted_and_goes_on() -> None:
    async def scenario(port: Port) -> None:
        scans = port.calls.connections
        port.calls.connections = None  # what it looks over is gone
        failures = partial(port.registry.get_sample_value, "modelzoo_vital_task_failures_total")
        await asyncio.to_thread(wait_for, lambda: failures({"task": "guard"}) == 1)
        port.calls.connections = scans
        with RawPeer(port.address) as peer:
            assert (await asyncio.to_thread(peer.end_of, peer.call(UNARY.encode())))[b"grpc-status"] == b"14"
        assert port.faults.healthy() == ""

    run(scenario, limits(max_idle_s=0.2))


@pytest.mark.parametrize("path", [UNARY, STREAM, ECHO])
def test_a_message_that_is_too_large_is_counted_as_a_call_that_the_transport_ended(path: str) -> None:
    async def scenario(port: Port) -> None:
        with RawPeer(port.address) as peer:
            stream = peer.call(path.encode())
            await asyncio.to_thread(peer.send, stream, prefixed(bytes(65 * MEGABYTE))[: 1 << 16])
            ended = await asyncio.to_thread(peer.end_of, stream)
        assert ended[b"grpc-status"] == b"8"
        await asyncio.to_thread(wait_for, partial(all_ended, port))
        kind = "unary" if path == UNARY else "bidi_stream"
        labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": path.rpartition("/")[2]}
        count = partial(port.registry.get_sample_value, "grpc_server_handled_total")
        # grpc.aio tells its handler nothing but that the call is cancelled.
        code = "Cancelled" if listening_.chosen == ["grpc"] else "ResourceExhausted"
        assert count(labels | {"grpc_code": code}) == 1
        assert count(labels | {"grpc_code": "OK"}) == 0

    run(scenario)


@pytest.mark.parametrize("path", [UNARY, STREAM, ECHO])
def test_calls_that_are_cancelled_at_any_moment_are_counted_to_their_end(path: str) -> None:
    async def scenario(port: Port) -> None:
        body = prefixed(Request(model="large", version=100_000).SerializeToString())
        for sent in (b"", body[:3], body, 2 * body):
            with RawPeer(port.address, window=1) as peer:
                before = counted(port, "started")
                for _ in range(3):
                    await asyncio.to_thread(peer.send, peer.call(path.encode()), sent)
                await asyncio.to_thread(wait_for, lambda: counted(port, "started") == before + 3)  # noqa: B023
        assert (await classify(port)).model == "answer"

    run(scenario)
