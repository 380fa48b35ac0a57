"""The metrics port: Prometheus' text under /metrics, for a bounded number of patient-enough scrapers."""

import socket
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_POLL_S = 0.1  # how long closing the port may take; the library's half a second is most of a quick stop
_MAX_CONNECTIONS = 16  # each holds a thread
_PATIENCE_S = 10.0  # that a connection may say nothing


class MetricsPort:
    """Serves a registry from threads of its own.

    Args:
        host: address to listen on.
        port: 0 for whatever is free.
        patience_s: that a connection may say nothing.

    Raises:
        OSError: the port is in use, or the host is not ours.
    """

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, patience_s: float = _PATIENCE_S
    ) -> None:
        kind = _Server6 if ":" in host else _Server
        self._server = make_server(host, port, make_wsgi_app(registry), kind, _Handler)
        self._server.patience_s = patience_s
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether the thread that accepts connections lives."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # said nothing, or hung up; there is nothing to say to it
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Say nothing: a scrape is no event."""


class _Server(ThreadingWSGIServer):
    daemon_threads = True
    block_on_close = False
    patience_s = _PATIENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seats = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._seats.acquire(blocking=False):
            request.settimeout(self.patience_s)
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._seats.release()


class _Server6(_Server):
    address_family = socket.AF_INET6
