"""Closed-loop load: so many requests outstanding, and for every answer the next one."""

import asyncio

from bench.load.load import Load, Report
from bench.load.recorder import Recorder
from bench.load.transports import connected, run_on_event_loop

GENERATOR = "python"


def closed_loop(load: Load, address: str) -> Report:
    """Run a load to its end; all begin together, connected already.

    Raises:
        ConnectionError: no server answers there.
        TypeError: a picture that the protocol cannot send.
    """
    return run_on_event_loop(_run(load, address))


async def _run(load: Load, address: str) -> Report:
    async with connected(load, address, load.outstanding) as transport:
        recorder = Recorder(load)
        ends_s = load.warm_up_s + load.seconds

        async def ask_again_and_again(number: int) -> None:
            while (load.requests is None or number < load.requests) and (
                asked_s := recorder.now_s()
            ) < ends_s:
                answer = await transport.ask(number, load.deadline_s)
                recorder.count(number, asked_s, answer)
                # The stream has ended, or the server is gone or going: asking on would only spin.
                if answer.stream_ended or answer.status == "UNAVAILABLE":
                    return
                number += load.outstanding

        askers = [asyncio.create_task(ask_again_and_again(number)) for number in range(load.outstanding)]
        _, hung = await asyncio.wait(askers, timeout=ends_s + load.patience_s)
        ended_s = min(recorder.now_s(), ends_s)
        for asker in hung:
            asker.cancel()
        return recorder.report(GENERATOR, (load.warm_up_s, ended_s), len(hung))
