"""Frames between the engine and a front end: one that cannot be used ends the connection, with its cause."""

import asyncio
import socket

import pytest

from modelzoo.v1 import frontend_pb2
from server.frontends.channel import Channel

Frame = frontend_pb2.FrontendFrame


class Pair:
    """A channel, and the other end as a plain socket."""

    def __init__(self) -> None:
        self.heard: list[Frame] = []
        self.failures: list[Exception] = []
        self.channel = Channel(Frame, Frame, self.receive, self.failures.append)

    def receive(self, frame: Frame) -> None:
        self.heard.append(frame)
        if frame.failure:
            raise KeyError(frame.failure)

    async def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        await self.channel.connect(ours)
        theirs.setblocking(False)
        return theirs


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"\xff\xff\xff", "DecodeError"), (Frame(failure="no such model").SerializeToString(), "KeyError")],
)
def test_a_frame_that_cannot_be_used_ends_the_connection_and_tells_why(body: bytes, kind: str) -> None:
    async def scenario() -> None:
        complaints: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        pair = Pair()
        theirs = await pair.connect()
        with theirs:
            theirs.send(framed(Frame(listening=True).SerializeToString()) + framed(body) + framed(b""))
            await asyncio.wait_for(pair.channel.ended.wait(), 60)
            assert pair.heard[0].listening
            assert [type(error).__name__ for error in pair.failures] == [kind]
            assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
        assert complaints == []

    asyncio.run(scenario())


def test_a_sign_of_life_is_an_empty_frame_and_waits_for_no_reader() -> None:
    async def scenario() -> None:
        pair = Pair()
        theirs = await pair.connect()
        with theirs:
            pair.channel.beat()
            assert await asyncio.get_running_loop().sock_recv(theirs, 100) == framed(b"")
            pair.channel.pending.failure = "x" * 10_000_000  # more than the socket takes
            await asyncio.sleep(0)
            waiting = pair.channel._transport.get_write_buffer_size()
            assert waiting
            for _ in range(1000):
                pair.channel.beat()
                await asyncio.sleep(0)
            assert pair.channel._transport.get_write_buffer_size() == waiting
            pair.channel.abort()

    asyncio.run(scenario())
