"""grpc.aio: calls are accepted whatever their path is, and the port is opened anew where that fails.

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
from collections.abc import Mapping

from grpc._cython import cygrpc  # type: ignore[attr-defined] # grpcio's core is untyped

from server.rpc.context import Method
from server.rpc.pacer import CallStarts
from server.rpc.transports.grpc_context import RpcMethodHandler, handler_of
from server.rpc.transports.transport import Bounds

_QUEUES = 16  # of calls that are not accepted yet, where connections are enough
_CONNECTIONS_PER_QUEUE = 128  # at the least: the kernel does not spread them evenly
# That gRPC holds until they are accepted, 15 kB each; beyond, it rejects some of any peer.
_PENDING_CALLS = 16_384
_CONNECTION_OPTIONS = (
    ("grpc.so_reuseport", 1),  # or the port could not be opened more than once, nor anew
    # Of a call that is not accepted yet, gRPC reads no more than 64 KiB; it would measure the connection, and
    # read megabytes. A message of any size takes one round trip more.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),  # connections that never say a word
    ("grpc.max_connection_idle_ms", 300_000),  # and those that say no more
    ("grpc.keepalive_time_ms", 30_000),  # finds clients that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Of pings that come too often, gRPC would note each in the error that closes the connection once what is
    # written to it is read: 3,400 pings, 110 kB, are half a second of a core.
    ("grpc.http2.max_ping_strikes", 0),
)
_CALLS_A_TURN = (
    4  # each takes half a millisecond at the start; light calls that go on must not wait for sixteen
)


class GrpcAio:
    """A port of grpc.aio; lives on the event loop.

    Args:
        address: to listen on; its port is not 0.
        methods: by their whole path.
        unknown: answers all other paths.
        queues: how many times the port is opened; None for as many as its connections are worth.

    Attributes:
        servers: that accept now, or accepted last; none before the port is opened and once it is closed.
    """

    holds_answers = False  # a message is written when the connection has taken it

    def __init__(
        self,
        address: str,
        bounds: Bounds,
        methods: Mapping[str, Method],
        unknown: Method,
        queues: int | None = None,
    ) -> None:
        queues = queues or max(1, min(_QUEUES, bounds.max_connections // _CONNECTIONS_PER_QUEUE))
        self._address = address
        self._options = _options(bounds, queues)
        self._methods = {path: handler_of(method) for path, method in methods.items()}
        self._unknown = handler_of(unknown)
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
    tests/server/rpc/transports/test_grpc_aio.py fails where one differs.
    """

    def prepare(
        self,
        methods: Mapping[str, RpcMethodHandler],
        unknown: RpcMethodHandler,
        crashed: asyncio.Event,
        starts: CallStarts,
    ) -> None:
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


def _options(bounds: Bounds, queues: int) -> list[tuple[str, int]]:
    """Return gRPC's options for what the connections of one queue may cost."""
    # gRPC's own limits reject without a word of ours, so ours come first. Streams that are reset count
    # until they are accepted: a queue has room for all of two connections, and for others beside them.
    pending_calls = max(2 * bounds.max_streams, _PENDING_CALLS // queues)
    return [
        ("grpc.max_receive_message_length", bounds.max_message_bytes),
        # Identity alone, or with deflate and gzip: what is compressed is counted when it no longer is.
        ("grpc.compression_enabled_algorithms_bitset", 0b111 if bounds.accept_compressed else 0b1),
        ("grpc.max_concurrent_streams", bounds.max_streams),
        ("grpc.server.max_pending_requests", pending_calls),
        ("grpc.server.max_pending_requests_hard_limit", 3 * pending_calls // 2),
        ("grpc.max_allowed_incoming_connections", bounds.max_connections // queues),
        ("grpc.max_connection_age_ms", int(1000 * bounds.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", int(1000 * bounds.max_connection_age_grace_s)),
        *_CONNECTION_OPTIONS,
    ]


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

    def __init__(self, handler: RpcMethodHandler) -> None:
        self._handler = handler

    def resolve_handler(self, _: object) -> RpcMethodHandler:
        """Return the handler."""
        return self._handler
