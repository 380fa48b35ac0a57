"""gRPC's port: calls are accepted whatever their path is, and the port is opened anew where that fails.

grpcio's own loop decodes the path of every call, and ends for good, and the port with it, when one is no
text. Here every method is registered with gRPC's core, which compares bytes; what matches none is rejected
undecoded. An accept loop for each method also spares waiting on all at every call, a seventh of a small
call's price.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # grpcio's core is untyped
from structlog.typing import FilteringBoundLogger

Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Methods = Mapping[str, Method]
Options = Sequence[tuple[str, int]]

_REOPEN_S = 1.0  # between two tries


class Listener:
    """A port of gRPC; lives on the event loop.

    Args:
        address: to listen on; its port is not 0.
        options: of gRPC's core; `so_reuseport` must be among them, or the port could not be opened anew.
        methods: handlers, by the whole path of their method.
        unknown: handler of all other paths.
        on_crash: called with what ended the accept loop, before the port is opened anew.

    Attributes:
        server: that accepts now; None before and after, and while the port is opened anew.
    """

    def __init__(
        self,
        address: str,
        options: Options,
        methods: Methods,
        unknown: Method,
        log: FilteringBoundLogger,
        on_crash: Callable[[Exception], None],
    ) -> None:
        self._address = address
        self._options = options
        self._methods = methods
        self._unknown = unknown
        self._log = log
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[None]] = set()
        self._crashed_servers: list[_Server] = []
        self.server: _Server | None = None

    async def open(self) -> None:
        """Open the port.

        Raises:
            RuntimeError: it cannot be had; gRPC does not say why.
        """
        server = _Server(asyncio.get_running_loop(), None, (), (), tuple(self._options), None)
        server.prepare(self._methods, self._unknown, partial(self._crashed, server))
        if server.add_insecure_port(self._address.encode()) == 0:
            raise RuntimeError(f"gRPC cannot listen on {self._address}")
        await server.start()
        self.server = server

    async def close(self, grace_s: float | None) -> None:
        """Close the port, and cancel the calls that are not answered by then; None cancels them now."""
        server, self.server = self.server, None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if server is not None:
            await server.shutdown(grace_s)
        for crashed in self._crashed_servers:
            await crashed.shutdown(None)

    def _crashed(self, server: "_Server", error: Exception) -> None:
        """Open the port anew; what the crashed server has in hand goes on."""
        if self.server is not server:
            return
        self._on_crash(error)
        self._crashed_servers.append(server)
        task = asyncio.get_running_loop().create_task(self._reopen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reopen(self) -> None:
        delay_s = 0.0
        while True:
            try:
                await self.open()
            except RuntimeError:
                self._log.exception("port_not_reopened", retry_s=_REOPEN_S)
                delay_s = _REOPEN_S
            else:
                self._log.info("port_reopened", grpc=self._address)
                return
            await asyncio.sleep(delay_s)


class _Server(cygrpc.AioServer):  # type: ignore[misc] # grpcio's core is untyped
    """grpcio's asyncio server, with an accept loop for each method in the place of one for all.

    It overrides, and calls, what grpcio keeps to itself: pyproject.toml bounds the versions, and
    tests/server/rpc/test_listener.py fails where one differs.
    """

    def prepare(self, methods: Methods, unknown: Method, on_crash: Callable[[Exception], None]) -> None:
        """Take the handlers, before the start."""
        self._resolvers = {path.encode(): _Resolver(handler) for path, handler in methods.items()}
        self._unknown = _Resolver(unknown)
        self._on_crash = on_crash
        self._loops: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._crash: Exception | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add_registered_method_handlers(dict(methods))

    def crash(self, error: Exception) -> None:
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
            if error is not self._crash:
                raise

    async def _server_main_loop(self, started: "asyncio.Future[bool]") -> None:
        """Wait, in the place of grpcio's loop, for what `_make_request_call_future` gives it."""
        try:
            await super()._server_main_loop(started)
        except cygrpc._RequestCallError:  # the port is being closed
            raise
        except Exception as error:
            self._crash = error
            self._on_crash(error)
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
                handling = cygrpc._handle_rpc(name, resolver, (), state, loop, False)
                call = loop.create_task(cygrpc._schedule_rpc_coro(handling, state, loop, name))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                del state, handling, call
        except Exception as error:  # noqa: BLE001 - whatever it is, the port is opened anew
            self.crash(error)


class _Resolver:
    """Gives grpcio the handler of a call that is known before its path is read."""

    def __init__(self, handler: Method) -> None:
        self._handler = handler

    def resolve_handler(self, _: object) -> Method:
        """Return the handler."""
        return self._handler
