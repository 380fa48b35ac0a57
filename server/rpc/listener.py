"""gRPC's port: calls are accepted whatever their path is, and the port is opened anew where that fails.

grpcio's own loop decodes the path of every call, and ends for good, and the port with it, when one is no
text. Here every method is registered with gRPC's core, which compares bytes; what matches none is rejected
undecoded. An accept loop for each method also spares waiting on all at every call, a seventh of a small
call's price.

gRPC hands the calls of a method over in the order in which they came, so a flood on one connection delays
all. The port is therefore opened several times, each time with a queue of calls of its own; the kernel
spreads connections over them, and the event loop takes from each in turn.
"""

import asyncio
import gc
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # grpcio's core is untyped

from server.rpc.pacer import CallStarts

Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Methods = Mapping[str, Method]
Options = Sequence[tuple[str, int]]

QUEUES = 16  # of calls that are not accepted yet, where connections are enough; see `Listener`
_CALLS_A_TURN = (
    4  # each takes half a millisecond at the start; light calls that go on must not wait for sixteen
)


class Listener:
    """A port of gRPC; lives on the event loop.

    Args:
        address: to listen on; its port is not 0.
        options: of gRPC's core, for each queue; `so_reuseport` must be among them, or the port could not be
            opened more than once, nor anew.
        methods: handlers, by the whole path of their method.
        unknown: handler of all other paths.
        queues: how many times the port is opened.

    Attributes:
        servers: that accept now, or accepted last; none before the port is opened and once it is closed.
    """

    def __init__(
        self,
        address: str,
        options: Options,
        methods: Methods,
        unknown: Method,
        queues: int = 1,
    ) -> None:
        self._address = address
        self._options = options
        self._methods = methods
        self._unknown = unknown
        self._queues = queues
        self._crashed = asyncio.Event()
        self._starts = CallStarts(_CALLS_A_TURN)
        self._crashed_servers: list[_Server] = []
        self.servers: list[_Server] = []

    async def open(self) -> None:
        """Open the port.

        Raises:
            RuntimeError: it cannot be had; gRPC does not say why.
        """
        while len(self.servers) < self._queues:
            self.servers.append(server := self._server())  # before it starts: a stop meanwhile has to find it
            _unblock_poller()
            await server.start()

    async def accept(self) -> None:
        """Wait for the end of accepting, in any of the queues, which should have none before `close`.

        Raises:
            Exception: what ended it.
        """
        if not self.servers:
            raise RuntimeError("a port that is not open accepts nothing. This is a bug.")
        await self._crashed.wait()
        raise next(
            (server.crash for server in self.servers if server.crash is not None),
            RuntimeError("accepting ended without a cause"),
        )

    async def reopen(self) -> None:
        """Open the port anew where accepting ended; what is in hand goes on.

        Raises:
            RuntimeError: see `open`.
        """
        self._crashed.clear()
        crashed = [server for server in self.servers if server.crash is not None]
        self._crashed_servers += crashed
        self.servers = [server for server in self.servers if server not in crashed]
        await self.open()

    async def close(self, grace_s: float | None) -> None:
        """Close the port, and cancel the calls that are not answered by then; None cancels them now."""
        servers, self.servers = self.servers, []
        await asyncio.gather(*(server.shutdown(grace_s) for server in servers))
        for crashed in self._crashed_servers:
            await crashed.shutdown(None)

    def _server(self) -> "_Server":
        """Make a server that has the port.

        Raises:
            RuntimeError: see `open`.
        """
        server = _Server(asyncio.get_running_loop(), None, (), (), tuple(self._options), None)
        server.prepare(self._methods, self._unknown, self._crashed, self._starts)
        if server.add_insecure_port(self._address.encode()) == 0:
            raise RuntimeError(f"gRPC cannot listen on {self._address}")
        return server


class _Server(cygrpc.AioServer):  # type: ignore[misc] # grpcio's core is untyped
    """grpcio's asyncio server, with an accept loop for each method in the place of one for all.

    It overrides, and calls, what grpcio keeps to itself: pyproject.toml bounds the versions, and
    tests/server/rpc/test_listener.py fails where one differs.
    """

    def prepare(self, methods: Methods, unknown: Method, crashed: asyncio.Event, starts: CallStarts) -> None:
        """Take the handlers, before the start; what is set when accepting ends; and when calls may begin."""
        self._resolvers = {path.encode(): _Resolver(handler) for path, handler in methods.items()}
        self._unknown = _Resolver(unknown)
        self._loops: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self.crash: Exception | None = None
        self._crashed = crashed
        self._starts = starts
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add_registered_method_handlers(dict(methods))

    def end(self, error: Exception) -> None:
        """End accepting with an error."""
        if not self._end.done():
            self._end.set_exception(error)

    async def shutdown(self, grace_s: float | None) -> None:
        """Close the port, and wait for the calls that are open; None cancels them.

        After a crash grpcio closes the port by itself, and fails before it cancels anything.
        """
        try:
            await super().shutdown(grace_s)
        except Exception as error:
            if error is not self.crash:
                raise

    async def _server_main_loop(self, started: "asyncio.Future[bool]") -> None:
        """Wait, in the place of grpcio's loop, for what `_make_request_call_future` gives it."""
        try:
            await super()._server_main_loop(started)
        except Exception as error:
            if self.is_running():  # else the port is being closed
                self.crash = error
                self._crashed.set()
            raise

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[None]":
        """Accept the calls of a method (None: of all others), and give a future of their end.

        These loops end when the port is closed, and are never cancelled: gRPC's core writes the next call
        into what they wait for.
        """
        task = asyncio.get_running_loop().create_task(self._accept(method))
        self._loops.add(task)
        task.add_done_callback(self._loops.discard)
        return self._end

    async def _accept(self, method: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        resolver, name = (
            (self._unknown, "unknown") if method is None else (self._resolvers[method], method.decode())
        )
        try:
            while True:
                state = await (
                    self._request_call() if method is None else self._request_registered_call(method)
                )
                await self._starts.wait()
                handling = cygrpc._handle_rpc(name, resolver, (), state, loop, False)
                call = loop.create_task(cygrpc._schedule_rpc_coro(handling, state, loop, name))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                del state, handling, call
        except cygrpc._RequestCallError as error:  # the port is being closed, or should be
            self.end(RuntimeError("gRPC's core hands no more calls over") if self.is_running() else error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the port is opened anew
            self.end(error)


def _unblock_poller() -> None:
    """Keep gRPC's poller, which brings all events, from ever waiting for the event loop.

    It writes a byte to a socket for every event, but a turn of the event loop reads one byte and takes all
    events. Where they come faster than turns, the socket is full in the end, and the poller would wait until
    three quarters of it are read: for hundreds of turns, in which no call goes on. What fits into a full
    socket no more wakes nothing that is not awake.
    """
    for one in sockets_of_poller():
        one.setblocking(False)


def sockets_of_poller() -> list[socket.socket]:
    """Find the sockets by which gRPC's poller wakes event loops: both ends, while it runs."""
    targets = [
        getattr(getattr(thread, "_target", None), "__self__", None) for thread in threading.enumerate()
    ]
    pollers = [one for one in targets if isinstance(one, cygrpc.PollerCompletionQueue)]
    return [one for one in gc.get_referents(*pollers) if isinstance(one, socket.socket)]


class _Resolver:
    """Gives grpcio the handler of a call that is known before its path is read."""

    def __init__(self, handler: Method) -> None:
        self._handler = handler

    def resolve_handler(self, _: object) -> Method:
        """Return the handler."""
        return self._handler
