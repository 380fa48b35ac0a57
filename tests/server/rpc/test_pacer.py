"""Heavy requests go on one by one, with as much time between them for others as they took."""

import asyncio

from server.rpc.pacer import LIGHT_BYTES, Pacer

HEAVY_BYTES = LIGHT_BYTES + 1


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self.running = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        if self.running:
            asyncio.get_running_loop().call_soon(self._turn)


def test_heavy_requests_go_on_in_their_order_one_a_turn_and_light_ones_at_once() -> None:
    async def scenario() -> None:
        pacer, turns, went = Pacer(), Turns(), []

        async def request(name: str, size_bytes: int) -> None:
            await pacer.wait(size_bytes)
            went.append((name, turns.count))

        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(request(name, HEAVY_BYTES))
            group.create_task(request("light", LIGHT_BYTES))
        turns.running = False
        names, at = zip(*went, strict=True)
        assert names == ("a", "light", "b", "c", "d")
        assert len(set(at)) == 4  # the light one went with the first

    asyncio.run(scenario())


def test_after_a_long_one_the_next_waits_as_long_as_that_took() -> None:
    async def scenario() -> None:
        now_s = 0.0
        pacer, began, ended = Pacer(lambda: now_s), asyncio.Event(), []
        loop = asyncio.get_running_loop()

        async def request(takes_s: float) -> None:
            nonlocal now_s
            await pacer.wait(HEAVY_BYTES)
            now_s += takes_s
            ended.append(loop.time())
            began.set()

        first = asyncio.create_task(request(0.05))
        second = asyncio.create_task(request(0.0))
        third = asyncio.create_task(request(0.0))
        await asyncio.gather(first, second, third)
        assert ended[1] - ended[0] >= 0.045  # timers are rounded to milliseconds
        await request(0.0)  # nobody waits: at once

    asyncio.run(scenario())


def test_a_request_that_is_cancelled_while_it_waits_is_passed_over() -> None:
    async def scenario() -> None:
        pacer = Pacer()
        first, second, third = (asyncio.create_task(pacer.wait(HEAVY_BYTES)) for _ in range(3))
        await first
        second.cancel()
        await third
        assert second.cancelled()

    asyncio.run(scenario())
