"""No proxy stands between a client and its own machine; what is no address is never dialled."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from client import channels

ROOT = Path(__file__).parent.parent.parent
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda body, _: body)


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("echo") / "socket"


@pytest.fixture(scope="module")
def port(socket_path: Path) -> Iterator[int]:
    """The port of a server on every interface, which also listens on two unix sockets."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Echo()])
    found = server.add_insecure_port("0.0.0.0:0")
    server.add_insecure_port(f"unix:{socket_path}")
    server.add_insecure_port(f"unix-abstract:modelzoo-test-{os.getpid()}")
    server.start()
    yield found
    server.stop(None).wait()


@pytest.fixture
def nothing_listens() -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def call(address: str) -> bytes:
    with channels.open_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return channel.unary_unary("/echo.Echo/Echo")(b"body", timeout=10)


async def call_aio(address: str) -> bytes:
    async with channels.open_aio_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return await channel.unary_unary("/echo.Echo/Echo")(b"body", timeout=10)


@pytest.mark.parametrize(
    "variables",
    [
        *([name] for name in PROXY_VARIABLES),
        ["GRPC_ADDRESS_HTTP_PROXY", "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES"],
    ],
    ids=lambda names: names[0],
)
def test_no_proxy_of_the_environment_stands_before_the_loopback(
    monkeypatch: pytest.MonkeyPatch, variables: list[str], port: int, socket_path: Path, nothing_listens: int
) -> None:
    values = {
        "GRPC_ADDRESS_HTTP_PROXY": f"127.0.0.1:{nothing_listens}",
        "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "127.0.0.0/8",
    }
    for name in variables:
        monkeypatch.setenv(name, values.get(name, f"http://127.0.0.1:{nothing_listens}"))
    for address in (
        f"127.0.0.1:{port}",
        f"localhost:{port}",
        f"dns:///localhost:{port}",
        f"ipv4:127.0.0.1:{port}",
        f"0.0.0.0:{port}",
        f"unix:{socket_path}",
        f"unix://{socket_path}",
        f"unix-abstract:modelzoo-test-{os.getpid()}",
    ):
        assert call(address) == b"body", address
    assert asyncio.run(call_aio(f"127.0.0.1:{port}")) == b"body"


def test_other_addresses_keep_the_proxy_and_no_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, port: int, nothing_listens: int
) -> None:
    monkeypatch.setattr(channels, "is_local", lambda address: False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{nothing_listens}")
    with pytest.raises(grpc.RpcError) as caught:
        call(f"127.0.0.1:{port}")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert call(f"127.0.0.1:{port}") == b"body"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:8001", True),
        ("127.255.0.9:8001", True),
        ("127.0.0.1", True),
        ("[::1]:8001", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]:8001", True),
        ("[::]:8001", True),
        ("LocalHost:8001", True),
        ("api.localhost:8001", True),
        ("ip6-localhost:8001", True),
        ("dns:localhost:8001", True),
        ("dns://192.0.2.1/localhost:8001", True),
        ("ipv6:[::1]:8001", True),
        ("ipv4:127.0.0.1:8001,127.0.0.2:8001", True),
        ("unix:relative.sock", True),
        ("unix-abstract:name", True),
        ("192.0.2.1:8001", False),
        ("[2001:db8::1]:8001", False),
        ("[::ffff:192.0.2.1]:8001", False),
        ("ipv4:127.0.0.1:8001,192.0.2.1:8001", False),
        ("notlocalhost:8001", False),
        ("localhost.example:8001", False),
        ("127.0.0.1.example:8001", False),
        ("models.example:8001", False),
        ("dns:///models.example:8001", False),
        ("http://127.0.0.1:8001", False),
    ],
)
def test_local_is_what_never_leaves_this_machine(address: str, local: bool) -> None:
    assert channels.is_local(address) is local


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "names no host"),
        (":8001", "names no host"),
        ("[]:8001", "names no host"),
        (" :8001", "names no host"),
        ("127.0.0.1:0", "port 0 is not 1 to 65535"),
        ("127.0.0.1:65536", "port 65536 is not 1 to 65535"),  # gRPC would dial port 0
        ("dns:///models.example:99999", "port 99999 is not 1 to 65535"),
        ("::1:8001", "in brackets"),
        ("caf\udce9:8001", "is not UTF-8"),
    ],
)
def test_what_is_no_address_is_refused_before_it_is_dialled(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        channels.open_channel(address)
    with pytest.raises(ValueError, match=reason):
        channels.open_aio_channel(address)


def test_every_channel_is_opened_here() -> None:
    opens = re.compile(r"insecure_channel|secure_channel|urlopen")
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("client", "cli", "bench")
        for path in (ROOT / room).rglob("*.py")
        if opens.search(path.read_text("utf-8"))
    }
    assert found == {"client/channels.py"}


def test_a_proxy_in_the_environment_leaves_the_commands_alone(server) -> None:
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:1")
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "status", "--ready", "--address", server.address],
        env=os.environ | proxies,
        check=False,
    )
    assert done.returncode == 0
