"""Heavy requests go on one by one, with as much time for others between them; calls begin a few at a time."""

import asyncio
from collections import Counter

from server.rpc.pacer import LIGHT_BYTES, CallStarts, Pacer

HEAVY_BYTES = LIGHT_BYTES + 1


class CountedTurns:
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
        pacer, turns, went = Pacer(), CountedTurns(), []

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


def test_before_a_stop_all_that_wait_go_on() -> None:
    async def scenario() -> None:
        pacer, went = Pacer(), []

        async def request(number: int) -> None:
            await pacer.wait(HEAVY_BYTES)
            went.append(number)

        requests = [asyncio.create_task(request(number)) for number in range(20)]
        await asyncio.sleep(0)
        assert len(went) < 20
        await pacer.flush()
        assert went == list(range(20))
        await asyncio.gather(*requests)

    asyncio.run(scenario())


def test_so_many_calls_begin_in_a_turn_and_the_others_in_their_order_in_the_next() -> None:
    async def scenario() -> None:
        starts, turns, began = CallStarts(4), CountedTurns(), []

        async def call(number: int) -> None:
            await starts.wait()
            began.append((number, turns.count))

        calls = [asyncio.create_task(call(number)) for number in range(14)]
        await asyncio.sleep(0)
        calls[5].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        turns.running = False
        assert [number for number, _ in began] == [number for number in range(14) if number != 5]
        in_turns = Counter(count for _, count in began)
        assert list(in_turns.values()) == [4, 4, 4, 1]

    asyncio.run(scenario())


def test_calls_begin_at_once_where_there_are_few() -> None:
    async def scenario() -> None:
        starts, turns = CallStarts(4), CountedTurns()
        for _ in range(3):
            before = turns.count
            for _ in range(4):
                await starts.wait()
            assert turns.count == before
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        turns.running = False

    asyncio.run(scenario())
