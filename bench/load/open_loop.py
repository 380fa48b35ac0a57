"""Open-loop load: requests arrive when they arrive, whatever became of those before.

A latency counts from the planned arrival, so a server that makes its clients wait cannot hide it.
"""

import asyncio
import threading

import numpy as np

from bench.load.load import Floats, Load, Report
from bench.load.recorder import Recorder
from bench.load.transports import connected, run_on_event_loop

GENERATOR = "python"


def open_loop(load: Load, arrivals_s: Floats, address: str) -> Report:
    """Ask at given times, and wait for the last answer.

    Args:
        arrivals_s: when each request arrives, ascending, in seconds after the beginning.

    Raises:
        ConnectionError: no server answers there.
        TypeError: a picture that the protocol cannot send.
    """
    return run_on_event_loop(_run(load, arrivals_s, address))


async def _run(load: Load, arrivals_s: Floats, address: str) -> Report:
    async with connected(load, address) as transport:
        loop = asyncio.get_running_loop()
        recorder = Recorder(load)
        waiting: set[asyncio.Task[None]] = set()
        all_sent = asyncio.Event()

        async def ask(number: int, due_s: float) -> None:
            lag_s = recorder.now_s() - due_s
            recorder.lag(lag_s)
            left_s = None if load.deadline_s is None else max(0.0, load.deadline_s - lag_s)
            recorder.count(number, due_s, await transport.ask(number, left_s))

        def send(number: int, due_s: float) -> None:
            task = loop.create_task(ask(number, due_s))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

        given_up = threading.Event()

        def pace() -> None:
            """Call at the planned times; a thread, because event loops sleep whole milliseconds."""
            for number, due_s in enumerate(arrivals_s.tolist()):
                if (early_s := due_s - recorder.now_s()) > 0 and given_up.wait(early_s):
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
        return recorder.report(GENERATOR, (0.0, recorder.now_s()), len(hung))


def poisson(rate_per_s: float, seconds: float, seed: int) -> Floats:
    """Draw arrivals that know nothing of each other.

    Args:
        rate_per_s: arrivals per second, on average.
        seconds: how long they go on.
        seed: the same gives the same arrivals.

    Returns:
        Seconds after the beginning, ascending, below ``seconds``.

    Raises:
        ValueError: the rate or the time is not above zero.
    """
    if not (rate_per_s > 0 and seconds > 0):
        raise ValueError(f"nothing arrives at {rate_per_s:g} a second for {seconds:g} s")
    random = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are spread evenly.
    return np.sort(random.uniform(0, seconds, random.poisson(rate_per_s * seconds)))
