"""The health service: who watches is told of every change, once, and sent away by a stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelzoo.v1 import classifier_pb2
from server.rpc.context import Methods
from server.rpc.handlers import Handlers
from server.services.health import SERVER, SERVICE, Health
from tests.server.listening import listening

Response = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING, UNKNOWN = Response.SERVING, Response.NOT_SERVING, Response.SERVICE_UNKNOWN
READY = classifier_pb2.MODEL_STATE_READY
OTHER_STATES = [state for state in classifier_pb2.ModelState.values() if state != READY]


@asynccontextmanager
async def asked(health: Health) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    """Serve it on a real port; gives a stub."""

    def methods(handlers: Handlers) -> Methods:
        return {f"/{SERVICE}/{name}": method for name, method in health.methods(handlers).items()}

    async with listening(methods) as port:
        yield health_pb2_grpc.HealthStub(port.channel)


def about(name: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


def test_only_a_ready_model_serves() -> None:
    async def scenario() -> None:
        health = Health()
        async with asked(health) as stub:
            for state in OTHER_STATES:
                health.set_model("m", state)
                assert (await stub.Check(about("m"))).status == NOT_SERVING
                health.set_model("m", READY)
                assert (await stub.Check(about("m"))).status == SERVING
            assert (await stub.Check(about(SERVER))).status == NOT_SERVING  # nobody said that it does
            health.set_server(serving=True)
            assert (await stub.Check(about(SERVER))).status == SERVING

    asyncio.run(scenario())


def test_a_model_that_is_not_there_is_not_found() -> None:
    async def scenario() -> None:
        async with asked(Health()) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(about("m" * 9_000))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "no model of that name"

    asyncio.run(scenario())


def test_a_watcher_is_told_of_every_change_and_of_nothing_else() -> None:
    async def scenario() -> None:
        health = Health()
        async with asked(health) as stub:
            watch = stub.Watch(about("m"))
            assert (await watch.read()).status == UNKNOWN  # it may yet come
            health.set_model("m", classifier_pb2.MODEL_STATE_LOADING)
            assert (await watch.read()).status == NOT_SERVING
            # Neither the same again nor another model is a change; what comes next shows that.
            health.set_model("m", classifier_pb2.MODEL_STATE_LOADING)
            health.set_model("other", READY)
            await stub.Check(about("m"))
            health.set_model("m", READY)
            assert (await watch.read()).status == SERVING
            health.set_model("m", classifier_pb2.MODEL_STATE_FAILED)
            assert (await watch.read()).status == NOT_SERVING

    asyncio.run(scenario())


def test_a_stop_tells_every_watcher_and_sends_it_away() -> None:
    async def scenario() -> None:
        health = Health()
        health.set_model("m", READY)
        health.set_server(serving=True)
        async with asked(health) as stub:
            calls = {name: stub.Watch(about(name)) for name in ("m", SERVER, "nobody")}
            watches = {name: aiter(call) for name, call in calls.items()}
            told = {name: [(await anext(watch)).status] for name, watch in watches.items()}
            health.drain()
            for name, watch in watches.items():
                told[name] += [response.status async for response in watch]
                assert await calls[name].code() == grpc.StatusCode.OK
        assert told == {"m": [SERVING, NOT_SERVING], SERVER: [SERVING, NOT_SERVING], "nobody": [UNKNOWN]}

    asyncio.run(scenario())


def test_nothing_serves_again_once_the_server_stops() -> None:
    async def scenario() -> None:
        health = Health()
        async with asked(health) as stub:
            health.drain()
            health.set_model("m", READY)  # it was loading when the stop came
            health.set_server(serving=True)
            assert (await stub.Check(about("m"))).status == NOT_SERVING
            assert (await stub.Check(about(SERVER))).status == NOT_SERVING
            late = stub.Watch(about("m"))
            assert [response.status async for response in late] == [NOT_SERVING]

    asyncio.run(scenario())


def test_a_watcher_that_leaves_is_forgotten() -> None:
    async def scenario() -> None:
        health = Health()
        async with asked(health) as stub:
            watches = [stub.Watch(about(SERVER)) for _ in range(10)]
            for watch in watches:
                await watch.read()
            assert len(health._watchers) == 10
            for watch in watches:
                watch.cancel()
            while health._watchers:  # the server hears of it in its own time
                await stub.Check(about(SERVER))

    asyncio.run(scenario())
