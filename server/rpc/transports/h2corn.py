"""h2corn: an HTTP/2 server in Rust, for many small requests; docs/transports.md says what it cannot take.

It is young, so its version is pinned, and two of its names that are not public are used, each once:
`Server._serve_worker_fds`, which serves sockets without printing a banner, and `_lib.prepare_tls`, which that
needs. tests/server/rpc/transports/test_h2corn.py fails where one differs.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import h2corn
from h2corn._lib import prepare_tls

from server.errors import ModelNotReadyError, ModelZooError, StartError
from server.rpc import statuses
from server.rpc.context import Method
from server.rpc.transports.asgi import NO_MORE, AsgiContext, Framing, Receive, Send
from server.rpc.transports.transport import Bounds

_LAST_WORDS_S = 0.5  # that clients have to take their last status when the port is closed
_IDLE_S = 300.0
_HEADER_BYTES = 16_384  # of all headers of a call, as gRPC's own limit
# Of what a client may send before it is read: of one stream, and of all streams of its connection.
_STREAM_WINDOW_BYTES, _CONNECTION_WINDOW_BYTES = 1 << 20, 8 << 20
# Finds clients that vanished without a word.
_KEEPALIVE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 30, 10, 3


class H2corn:
    """A port of h2corn; lives on the event loop.

    Args:
        listen: gives a socket that listens on the port, which others may do, too.
        methods: by their whole path.
        unknown: answers all other paths.
    """

    holds_answers = True  # up to 2 MB of a stream and 4.5 MB of a connection, as measured

    def __init__(
        self,
        listen: Callable[[], socket.socket],
        bounds: Bounds,
        methods: Mapping[str, Method],
        unknown: Method,
    ) -> None:
        self._listen = listen
        self._app = _App(
            methods, unknown, Framing(bounds.max_message_bytes, accept_compressed=bounds.accept_compressed)
        )
        self._config = h2corn.Config(
            access_log=False,
            date_header=False,
            grpc=True,
            http1=False,
            lifespan="off",
            log_format="json",
            runtime_threads=1,
            limit_connections=bounds.max_connections,
            max_concurrent_streams=bounds.max_streams,
            h2_initial_stream_window_size=_STREAM_WINDOW_BYTES,
            h2_initial_connection_window_size=_CONNECTION_WINDOW_BYTES,
            h2_max_header_block_size=_HEADER_BYTES,
            h2_max_header_list_size=_HEADER_BYTES,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=2 * _LAST_WORDS_S,  # `close` has its own grace before
            h2_timeout_response_stall=2 * bounds.max_idle_s,  # `rpc`'s guard comes first
        )
        self._open: _Listening | None = None
        self._ended: list[_Listening] = []

    async def open(self) -> None:
        """Open the port.

        Raises:
            RuntimeError: it cannot be had.
        """
        try:
            self._open = await _Listening.on(self._listen(), self._app, self._config)
        except (OSError, StartError) as error:
            raise RuntimeError(str(error)) from error

    async def accept(self) -> None:
        """Wait for the end of accepting, which should not come before `close`.

        Raises:
            Exception: what ended it.
        """
        if self._open is None:
            raise RuntimeError("a port that is not open accepts nothing. This is a bug.")
        await asyncio.shield(self._open.serving)
        raise RuntimeError("h2corn accepts no more connections")

    async def reopen(self) -> None:
        """Open the port anew where accepting ended.

        Raises:
            RuntimeError: see `open`.
        """
        if self._open is not None:
            self._open.close()
            self._ended.append(self._open)
        await self.open()

    async def close(self, grace_s: float | None) -> None:
        """Close the port, and end the calls that are not answered by then; None ends them now."""
        if self._open is None:
            return
        self._open.close()
        serving = [one.serving for one in (*self._ended, self._open)]
        if grace_s:
            await asyncio.wait(serving, timeout=grace_s)
        self._app.end_calls(ModelNotReadyError("the server is stopping"))
        await asyncio.wait(serving, timeout=_LAST_WORDS_S)
        self._app.end_calls(None)  # their clients do not even read that
        await asyncio.wait(serving, timeout=_LAST_WORDS_S)
        self._open = None


class _App:
    """The ASGI application: it is called for each request.

    Args:
        methods: by their whole path.
        unknown: answers all other paths.
    """

    def __init__(self, methods: Mapping[str, Method], unknown: Method, framing: Framing) -> None:
        self._methods = methods
        self._unknown = unknown
        self._framing = framing
        self._calls: set[AsgiContext] = set()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve a request."""
        call = AsgiContext(self._framing, scope, receive, send)
        if not call.is_grpc:
            await send({"type": "http.response.start", "status": 415, "headers": []})
            await send(NO_MORE)
            return
        self._calls.add(call)
        try:
            await call.serve(self._methods.get(scope["path"], self._unknown))
        finally:
            self._calls.discard(call)
            call.ended()

    def end_calls(self, error: ModelZooError | None) -> None:
        """End all calls that are open: with the status of an error, or without a word."""
        for call in tuple(self._calls):
            call.cancel(None if error is None else statuses.describe(error))


class _Listening:
    """One server of h2corn, on one socket.

    Attributes:
        serving: ends when it neither accepts nor serves any more.
    """

    def __init__(self, listener: socket.socket, server: h2corn.Server) -> None:
        self._listener = listener
        self._server = server
        serving = server._serve_worker_fds([listener.dup().detach()], prepared_tls=prepare_tls(server.config))
        self.serving = asyncio.get_running_loop().create_task(serving)

    @classmethod
    async def on(cls, listener: socket.socket, app: _App, config: h2corn.Config) -> "_Listening":
        """Serve what comes to a socket.

        Raises:
            Exception: h2corn's own, where it does not start.
        """
        # Those that it accepts inherit these options.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        listening = cls(listener, h2corn.Server(app, config))
        started = asyncio.ensure_future(listening._server.wait_started())
        await asyncio.wait([started, listening.serving], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if listening.serving.done():
            listening.serving.result()
        return listening

    def close(self) -> None:
        """Accept no more; what is in hand goes on."""
        self._server.shutdown()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # h2corn alone would leave new connections waiting
        self._listener.close()
