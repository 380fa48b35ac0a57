"""The transport over h2corn: where it differs from gRPC's own, and that what it needs of h2corn is there."""

import asyncio
import gzip
import json
import socket
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc
import h2corn
import pytest

from modelzoo.v1 import classifier_pb2
from server.config import Settings
from server.errors import InvalidRequestError, StartError
from server.grpc_server import bounds_of
from server.ports import listen_shared
from server.rpc.call import Call
from server.rpc.context import Methods
from server.rpc.handlers import Handlers, parser
from server.rpc.streams import Answers
from server.rpc.transports.h2corn import H2corn
from tests.server import listening as listening_
from tests.server.listening import Port, listening
from tests.server.progress import wait_for
from tests.server.raw_peer import RawPeer, prefixed

Request = classifier_pb2.ClassifyRequest
ECHO, UNARY, STREAM, TELL = "/test.S/Echo", "/test.S/Unary", "/test.S/Stream", "/test.S/Tell"
KILOBYTE = 1 << 10


def methods(handlers: Handlers) -> Methods:
    async def echo(call: Call, deadline_s: float | None) -> None:
        while (body := await call.read()) is not None:
            await call.write(body)

    async def answer(request: Request, deadline_s: float | None) -> bytes:
        if request.model == "wrong":
            raise InvalidRequestError("model", "100 % wrong: Gebäude\n")
        if request.model == "waits":
            await asyncio.Event().wait()
        return request.SerializeToString()

    async def tell(call: Call, deadline_s: float | None) -> None:
        await call.write(repr((call.header("x-text"), call.header("x-data-bin"))).encode())

    return {
        ECHO: handlers.other("bidi_stream", "test.S", "Echo", echo),
        UNARY: handlers.unary("test.S", "Unary", parser(Request), answer),
        STREAM: handlers.stream("test.S", "Stream", Answers(parser(Request), answer, lambda *_: Request())),
        TELL: handlers.other("server_stream", "test.S", "Tell", tell),
    }


@pytest.fixture(autouse=True)
def by_h2corn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_, "chosen", ["h2corn"])


@asynccontextmanager
async def serving(*, accept_compressed: bool = False) -> AsyncIterator[Port]:
    async with listening(methods, accept_compressed=accept_compressed) as port:
        yield port


def classify(port: Port, model: str, **options: object) -> "grpc.aio.UnaryUnaryCall[Request, Request]":
    call = port.channel.unary_unary(UNARY, Request.SerializeToString, Request.FromString)
    return call(Request(model=model), **options)


def test_the_names_of_h2corn_that_are_not_public_are_there() -> None:
    from h2corn import _lib

    assert h2corn.Server._serve_worker_fds
    assert _lib.prepare_tls(h2corn.Config())


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 100, 16_384, 16_389, 70_000])
def test_messages_are_put_together_whatever_chunks_they_come_in(cut: int) -> None:
    bodies = [b"", b"a", bytes(range(256)) * 300, b"", b"z" * 9]
    wire = b"".join(map(prefixed, bodies))

    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode())
                for at in range(0, len(wire), max(cut, len(wire) // 400)):
                    await asyncio.to_thread(peer.send, stream, wire[at : at + max(cut, len(wire) // 400)])
                await asyncio.to_thread(peer.send, stream, b"", half_closed=True)
                ended = await asyncio.to_thread(peer.end_of, stream)
            assert ended[b"grpc-status"] == b"0"
            assert peer.data[stream] == wire

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_answers_of_any_size_come_whole(size: int) -> None:
    async def scenario() -> None:
        async with serving() as port:
            options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(port.address, options=options) as channel:
                call = channel.stream_stream(ECHO)()
                for body in (bytes(size), b"next", bytes(size)):
                    await call.write(body)
                    assert await call.read() == body
                await call.done_writing()
                assert await call.code() == grpc.StatusCode.OK

    asyncio.run(scenario())


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\0", b"\0\0\0\0\x05abcd", prefixed(b"whole") + b"\0\0"])
def test_a_call_that_ends_within_a_message_is_told_so(tail: bytes) -> None:
    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode())
                await asyncio.to_thread(peer.send, stream, tail, half_closed=True)
                ended = await asyncio.to_thread(peer.end_of, stream)
            assert ended[b"grpc-status"] == b"13"
            assert ended[b"grpc-message"] == b"the call ended within a message"
            assert (await classify(port, "fine")).model == "fine"

    asyncio.run(scenario())


COMPRESSED = [
    (b"gzip", gzip.compress(b"hello"), 0, b"hello"),
    (b"deflate", zlib.compress(b"hello"), 0, b"hello"),
    (b"gzip", gzip.compress(bytes(100 * KILOBYTE)), 0, bytes(100 * KILOBYTE)),
    (b"gzip", b"no gzip at all", 13, None),
    (b"gzip", gzip.compress(b"hello")[:-9], 13, None),
    (b"identity", gzip.compress(b"hello"), 13, None),
    (b"br", b"hello", 12, None),
    (b"gzip", gzip.compress(bytes(65 << 20)), 8, None),
]


@pytest.mark.parametrize(("encoding", "body", "code", "plain"), COMPRESSED, ids=range(len(COMPRESSED)))
def test_compressed_messages_are_inflated_within_bounds_where_they_are_accepted(
    encoding: bytes, body: bytes, code: int, plain: bytes | None
) -> None:
    async def scenario() -> None:
        async with serving(accept_compressed=True) as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode(), [(b"grpc-encoding", encoding)])
                await asyncio.to_thread(peer.send, stream, prefixed(body, compressed=True), half_closed=True)
                ended = await asyncio.to_thread(peer.end_of, stream)
            assert ended[b"grpc-status"] == b"%d" % code
            assert ended[b"grpc-accept-encoding"] == b"identity,gzip,deflate"
            assert plain is None or peer.data[stream] == prefixed(plain)

    asyncio.run(scenario())


def test_compressed_messages_are_refused_where_they_are_not_accepted() -> None:
    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode(), [(b"grpc-encoding", b"gzip")])
                body = prefixed(gzip.compress(b"hello"), compressed=True)
                await asyncio.to_thread(peer.send, stream, body, half_closed=True)
                ended = await asyncio.to_thread(peer.end_of, stream)
            assert (ended[b"grpc-status"], ended[b"grpc-accept-encoding"]) == (b"12", b"identity")

    asyncio.run(scenario())


def test_messages_of_statuses_and_metadata_are_coded_as_grpc_does() -> None:
    async def scenario() -> None:
        async with serving() as port:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await classify(port, "wrong")
            assert raised.value.details() == "model: 100 % wrong: Gebäude\n"
            assert "grpc-status-details-bin" in dict(raised.value.trailing_metadata())
            metadata = (("x-text", "text"), ("x-data-bin", b"\x00\xff data"))
            call = port.channel.unary_stream(TELL)(b"", metadata=metadata)
            assert await call.read() == repr(("text", b"\x00\xff data")).encode()
            with RawPeer(port.address) as peer:
                stream = peer.call(TELL.encode(), [(b"x-data-bin", b"!")], half_closed=True)
                await asyncio.to_thread(peer.end_of, stream)
            assert peer.data[stream][5:] == b"(None, None)"

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout", [b"50m", b"50000u", b"50000000n"])
def test_a_deadline_is_answered_before_its_client_resets_the_call(timeout: bytes) -> None:
    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(UNARY.encode(), [(b"grpc-timeout", timeout)])
                body = prefixed(Request(model="waits").SerializeToString())
                await asyncio.to_thread(peer.send, stream, body, half_closed=True)
                ended = await asyncio.to_thread(peer.end_of, stream)
            assert (ended[b"grpc-status"], ended[b"grpc-message"]) == (b"4", b"Deadline Exceeded")
            labels = {"grpc_type": "unary", "grpc_service": "test.S", "grpc_method": "Unary"}
            labels["grpc_code"] = "DeadlineExceeded"
            assert port.registry.get_sample_value("grpc_server_handled_total", labels) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout", [b"", b"m", b"1x", b"-5m", b"999999999m", b"1 S"])
def test_a_timeout_that_is_none_is_passed_over(timeout: bytes) -> None:
    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode(), [(b"grpc-timeout", timeout)])
                await asyncio.to_thread(peer.send, stream, prefixed(b"x"), half_closed=True)
                assert (await asyncio.to_thread(peer.end_of, stream))[b"grpc-status"] == b"0"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [b"application/json", b"application/grpc-web", b"application/grpcx"])
def test_what_is_no_grpc_is_refused(kind: bytes) -> None:
    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode(), content_type=kind, half_closed=True)
                assert (await asyncio.to_thread(peer.end_of, stream))[b":status"] == b"415"
            assert (await classify(port, "fine")).model == "fine"

    asyncio.run(scenario())


def test_calls_whose_clients_go_away_end_and_are_counted() -> None:
    async def scenario() -> None:
        async with serving() as port:
            call = classify(port, "waits")
            await asyncio.to_thread(wait_for, lambda: port.in_flight.excess_bytes > -(1 << 20))
            call.cancel()
            await asyncio.to_thread(wait_for, lambda: not port.calls.ordinary.calls)
            with RawPeer(port.address) as peer:
                await asyncio.to_thread(peer.send, peer.call(STREAM.encode()), prefixed(b""))
                await asyncio.to_thread(wait_for, lambda: port.calls.ordinary.calls == 1)
            await asyncio.to_thread(wait_for, lambda: not port.calls.ordinary.calls)
            assert port.log.getvalue() == ""

    asyncio.run(scenario())


def test_where_its_listener_ends_the_port_is_opened_anew() -> None:
    async def scenario() -> None:
        async with serving() as port:
            before = port.channel.stream_stream(ECHO)()
            await before.write(b"begun before")
            assert await before.read() == b"begun before"
            for _ in range(3):
                listening = port.listener._open
                listening._listener.shutdown(socket.SHUT_RDWR)  # as any error of accept() does
                await asyncio.to_thread(wait_for, partial(reopened, port, listening))
                options = [("grpc.use_local_subchannel_pool", 1)]
                async with grpc.aio.insecure_channel(port.address, options=options) as channel:
                    call = channel.stream_stream(ECHO)(wait_for_ready=True)
                    await call.write(b"begun after")
                    assert await call.read() == b"begun after"
            assert await before.code() == grpc.StatusCode.UNAVAILABLE  # h2corn closes its connections then
            await asyncio.to_thread(wait_for, lambda: not port.calls.ordinary.calls)
            events = [json.loads(line)["event"] for line in port.log.getvalue().splitlines()]
            assert events == ["vital_task_ended", "vital_task_repaired"] * 3

    asyncio.run(scenario())


def reopened(port: Port, listening: object) -> bool:
    return port.listener._open not in {None, listening}


def test_a_stop_tells_calls_that_are_open() -> None:
    async def scenario() -> None:
        async with serving() as port:
            call = classify(port, "waits")
            await asyncio.to_thread(wait_for, lambda: port.calls.ordinary.calls == 1)
            await port.supervisor.stop()
            await port.listener.close(None)
            with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping"):
                await call
            assert await call.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_a_port_that_may_not_be_had_is_one_line() -> None:
    async def scenario() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            number = other.getsockname()[1]
            transport = H2corn(
                partial(listen_shared, "127.0.0.1", number),
                bounds_of(Settings(), 1 << 20, 16),
                {},
                unknown=None,
            )
            with pytest.raises(RuntimeError, match=rf"^cannot listen on 127\.0\.0\.1:{number}: .*in use"):
                await transport.open()
            with pytest.raises(RuntimeError, match="not open"):
                await transport.accept()
            await transport.close(None)

    asyncio.run(scenario())


def test_connections_find_clients_that_vanish() -> None:
    async def scenario() -> None:
        async with serving() as port:
            with RawPeer(port.address) as peer:
                stream = peer.call(ECHO.encode(), half_closed=True)
                await asyncio.to_thread(peer.end_of, stream)
                [connection] = port.calls.connections.values()
                await asyncio.to_thread(wait_for, lambda: connection.socket is not None)
                with connection.socket._duplicated() as ours:
                    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30

    asyncio.run(scenario())


def test_a_server_without_the_extra_says_what_to_install(
    start_empty: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h2corn", None)
    monkeypatch.delitem(sys.modules, "server.rpc.transports.h2corn")
    with pytest.raises(
        StartError, match=r"transport h2corn is not installed \(.*\); pip install 'modelzoo\[h2corn\]'"
    ):
        start_empty(transport="h2corn")
