"""What the client's tests share: real digits, and servers that need not be ours."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from client import Client

NAME = "simple_cnn-digits"


@pytest.fixture
def client_of() -> Iterator[Callable[[grpc.GenericRpcHandler], Client]]:
    """Starts servers of a handler each, that need not be ours, and gives clients of them."""
    servers, clients = [], []

    def start(handler: grpc.GenericRpcHandler) -> Client:
        servers.append(grpc.server(ThreadPoolExecutor(1), handlers=[handler]))
        port = servers[-1].add_insecure_port("127.0.0.1:0")
        servers[-1].start()
        clients.append(Client(f"127.0.0.1:{port}"))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in servers:
        server.stop(None).wait()
