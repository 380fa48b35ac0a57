"""Open-loop load: requests arrive when they arrive, whatever became of those before.

A latency counts from the planned arrival, so a server that makes its clients wait cannot hide it.
"""

import asyncio
import threading

from client import event_loop
from client.load import Floats, Load, Report
from client.tally import Tally
from client.transports import connected

GENERATOR = "python"


def open_loop(load: Load, arrivals_s: Floats, address: str) -> Report:
    """Ask at given times, and wait for the last answer.

    Args:
        arrivals_s: when each request arrives, ascending, in seconds after the beginning.

    Raises:
        ConnectionError: nobody answers there.
        TypeError: a picture that the dialect cannot send.
    """
    return event_loop.run(_run(load, arrivals_s, address))


async def _run(load: Load, arrivals_s: Floats, address: str) -> Report:
    async with connected(load, address) as transport:
        loop = asyncio.get_running_loop()
        tally = Tally(load)
        waiting: set[asyncio.Task[None]] = set()
        all_sent = asyncio.Event()

        async def ask(number: int, due_s: float) -> None:
            lag_s = tally.now_s() - due_s
            tally.lag(lag_s)
            left_s = None if load.deadline_s is None else max(0.0, load.deadline_s - lag_s)
            tally.count(number, due_s, await transport.ask(number, left_s))

        def send(number: int, due_s: float) -> None:
            task = loop.create_task(ask(number, due_s))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

        given_up = threading.Event()

        def pace() -> None:
            """Call at the planned times; a thread, because event loops sleep whole milliseconds."""
            for number, due_s in enumerate(arrivals_s.tolist()):
                if (early_s := due_s - tally.now_s()) > 0 and given_up.wait(early_s):
                    return
                loop.call_soon_threadsafe(send, number, due_s)
            loop.call_soon_threadsafe(all_sent.set)

        pacer = threading.Thread(target=pace, daemon=True)
        pacer.start()
        try:
            await all_sent.wait()
        finally:
            given_up.set()
            pacer.join()
        if waiting:
            await asyncio.wait(waiting, timeout=(load.deadline_s or 0) + load.patience_s)
        hung = list(waiting)
        for task in hung:
            task.cancel()
        return tally.report(GENERATOR, (0.0, tally.now_s()), len(hung))
