"""The metrics port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whatever watches the process.

It has a thread and an event loop of its own, so that it answers while the engine's loop does not; the text
of a scrape, which takes the interpreter for milliseconds, is made on another thread.
"""

import asyncio
import gzip
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from urllib.parse import urlsplit

import h11
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, gzip_accepted
from prometheus_client.openmetrics import exposition as openmetrics
from structlog.typing import FilteringBoundLogger

from server.observability.http_port import EXCHANGE_S, Answer, HttpPort, text_answer

# A scrape has to be answered before the scraper gives up, 4 s in deploy/prometheus: what comes later is lost.
_COLLECT_S = 3.0
# Rest after the text was made, in units of the processor time that took: scrapers without number get a
# quarter of a core's time, and the event loops the rest.
_REST = 3.0
_GZIP_LEVEL = 1  # 9 takes five times as long for a tenth less
_MAX_REASON_CHARACTERS = 200
_AFTER_FAILURE_S = 0.1  # before the port serves again
_CLOSE_S = 2.0  # for the thread to end; it is a daemon, nothing waits for it longer

Reason = Callable[[], str]  # what is wrong, in one line; empty where nothing is


class MetricsPort:
    """Serves a registry and the state of a server from a thread of its own.

    Args:
        listen: opens a port on the address of the server; see `ports.listen`.
        port: 0 for whatever is free.
        healthy: gives why the process should be replaced; called on the port's thread, must not block.
        ready: gives why a request would not be served; called likewise.
        on_failure: called on the port's thread when serving ended unasked; it begins anew by itself.
        exchange_s: that a connection may take from its beginning to the end of its answer.
        collect_s: that a scrape waits for the collectors.

    Raises:
        StartError: the port is in use, or the host is not ours.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        listen: Callable[[int], socket.socket],
        port: int,
        *,
        healthy: Reason,
        ready: Reason,
        log: FilteringBoundLogger,
        on_failure: Callable[[], None] = lambda: None,
        exchange_s: float = EXCHANGE_S,
        collect_s: float = _COLLECT_S,
    ) -> None:
        self._log = log
        self._on_failure = on_failure
        self._exchange_s = exchange_s
        self._listen = listen
        self._listener = listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._pages = _Pages(registry, healthy, ready, log, collect_s)
        self._loop = asyncio.SelectorEventLoop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the port is served."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Close the port; what is being answered is cut off."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())
        self._listener.close()

    async def _serve(self) -> None:
        """Serve until closed, whatever goes wrong; what went wrong may lie in the socket."""
        closing = asyncio.ensure_future(self._closing.wait())
        while not self._closing.is_set():
            serving = asyncio.ensure_future(self._serve_once())
            await asyncio.wait((serving, closing), return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            (end,) = await asyncio.gather(serving, return_exceptions=True)
            if not self._closing.is_set():
                self._log.error("metrics_port_failed", error=repr(end), retry_s=_AFTER_FAILURE_S)
                self._on_failure()
                self._listener.close()
                await asyncio.wait((closing,), timeout=_AFTER_FAILURE_S)
        self._pages.close()

    async def _serve_once(self) -> None:
        if self._listener.fileno() == -1:  # closed after a failure
            self._listener = self._listen(self.port)
        await HttpPort(self._listener, self._pages.respond, self._exchange_s).serve()


class _Pages:
    """What the port answers; lives on the port's event loop."""

    def __init__(
        self,
        registry: CollectorRegistry,
        healthy: Reason,
        ready: Reason,
        log: FilteringBoundLogger,
        collect_s: float,
    ) -> None:
        self._healthy = healthy
        self._ready = ready
        self._log = log
        self._collect_s = collect_s
        self._scrapes = _Scrapes(registry)
        self._fails = False  # whether the last scrape did

    async def respond(self, request: h11.Request) -> Answer:
        """Answer a request."""
        if request.http_version not in {b"1.0", b"1.1"}:  # the preface of HTTP/2 is parsed as a request
            return text_answer(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 or 1.0 only")
        try:
            path = urlsplit(request.target.decode("latin-1")).path
        except ValueError:
            return text_answer(HTTPStatus.BAD_REQUEST, "malformed target")
        if path not in {"/metrics", "/healthz", "/readyz"}:
            return text_answer(HTTPStatus.NOT_FOUND, "not found; there are /metrics, /healthz and /readyz")
        if request.method not in {b"GET", b"HEAD"}:
            return text_answer(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD only", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            return await self._metrics(request)
        return self._state(self._healthy if path == "/healthz" else self._ready)

    def close(self) -> None:
        """Take no more scrapes."""
        self._scrapes.close()

    def _state(self, reason_of: Reason) -> Answer:
        try:
            reason = " ".join(reason_of().split())[:_MAX_REASON_CHARACTERS]
        except Exception:  # noqa: BLE001 - a check that fails is no good sign, and must end nothing
            self._log.exception("health_check_failed")
            reason = "the check itself failed; the server's log has the cause"
        if reason:
            return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, reason, ("Cache-Control", "no-store"))
        return text_answer(HTTPStatus.OK, "ok", ("Cache-Control", "no-store"))

    async def _metrics(self, request: h11.Request) -> Answer:
        content_type = _content_type(_header(request, b"accept"))
        zipped = gzip_accepted(_header(request, b"accept-encoding"))
        try:
            async with asyncio.timeout(self._collect_s):
                page = await self._scrapes.page(content_type.startswith("application/openmetrics"), zipped)
        except Exception as error:  # noqa: BLE001 - a collector's; it must not end the port
            if not self._fails:  # once, not at every scrape
                self._log.error("scrape_failed", error=f"{type(error).__name__}: {error}", exc_info=error)
            self._fails = True
            what = f"took over {self._collect_s:g} s" if isinstance(error, TimeoutError) else "failed"
            return text_answer(
                HTTPStatus.SERVICE_UNAVAILABLE, f"collecting metrics {what}; the server's log has the cause"
            )
        self._fails = False
        encoding = (("Content-Encoding", "gzip"),) if zipped else ()
        vary = ("Vary", "Accept, Accept-Encoding")
        return Answer(HTTPStatus.OK, page, (("Content-Type", content_type), vary, *encoding))


class _Scrapes:
    """Makes the text of scrapes on one thread; all that wait for the same share it.

    A scrape shows what was counted when it was asked for: it joins those that wait, not the text that is
    being made.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._thread = ThreadPoolExecutor(1, "metrics-text")
        self._one = asyncio.Lock()
        self._not_before_s = 0.0
        self._waiting: dict[tuple[bool, bool], asyncio.Task[bytes]] = {}

    async def page(self, is_openmetrics: bool, zipped: bool) -> bytes:
        """Return the text, made after this call.

        Raises:
            Exception: a collector's.
        """
        kind = (is_openmetrics, zipped)
        if kind not in self._waiting:
            self._waiting[kind] = asyncio.get_running_loop().create_task(self._made(kind))
            # Where all that waited have gone, an error is taken note of here, and not at the task's deletion.
            self._waiting[kind].add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._waiting[kind])

    def close(self) -> None:
        """Make no more; a collector that hangs is left alone."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _made(self, kind: tuple[bool, bool]) -> bytes:
        try:
            async with self._one:
                await asyncio.sleep(max(0.0, self._not_before_s - time.monotonic()))
                self._waiting.pop(kind)
                page, cost_s = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._make, *kind
                )
                self._not_before_s = time.monotonic() + _REST * cost_s
                return page
        finally:
            if self._waiting.get(kind) is asyncio.current_task():
                del self._waiting[kind]

    def _make(self, is_openmetrics: bool, zipped: bool) -> tuple[bytes, float]:
        """Make the text; return it with the processor time that this took."""
        began_s = time.thread_time()
        encode = openmetrics.generate_latest if is_openmetrics else generate_latest
        page: bytes = encode(self._registry)
        if zipped:
            page = gzip.compress(page, _GZIP_LEVEL, mtime=0)
        return page, time.thread_time() - began_s


def _header(request: h11.Request, name: bytes) -> str:
    """Return all values of a header, joined as HTTP does."""
    return ",".join(value.decode("latin-1") for key, value in request.headers if key == name)


def _content_type(accept: str) -> str:
    """Choose the format as prometheus_client does, and name what is sent.

    The library repeats any version and escaping that is asked for. Here there is one OpenMetrics; and names
    that need no escaping are the same in all schemes but `dots` and `values`.
    """
    try:
        _, chosen = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is not a number
        return CONTENT_TYPE_PLAIN_0_0_4
    if chosen.startswith("application/openmetrics"):
        chosen = re.sub(r"version=[^;]*", "version=1.0.0", chosen)
    return re.sub(r"escaping=(dots|values)$", "escaping=underscores", chosen)
