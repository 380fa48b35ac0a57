"""The port of gRPC: no path ends it, and where its accept loop fails all the same, it is opened anew."""

import asyncio
import json
from functools import partial

import grpc
import pytest

from server.rpc.calls import Call
from server.rpc.handlers import Handlers
from tests.server.listening import Port, listening
from tests.server.progress import wait_for
from tests.server.raw_peer import RawPeer, prefixed

PATHS = [b"/\xff", b"", b"/", b"\xff\xfe", b"//", b"/a.B/C\x00", b"/\xf0\x28\x8c\x28", b"*", b"/a" * 2000]


def methods(handlers: Handlers) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
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
    return port.listener.server is not server


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
                server = port.listener.server
                server.crash(OSError(f"crash {crash}"))
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
            assert [event["event"] for event in events] == ["port_reopened"] * 3
            assert [str(crash) for crash in port.crashes] == ["crash 0", "crash 1", "crash 2"]

    asyncio.run(scenario())


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
