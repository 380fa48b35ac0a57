"""Closed-loop load: so many clients, each asking again as soon as it is answered."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from client.client import DEFAULT_ADDRESS, Client, ClientError, Picture


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        model: name of the model.
        pictures: asked in turn; every client begins at another one.
        clients: how many ask at the same time, each over a connection of its own.
        requests: how often each client asks.
        images_per_request: pictures in one request.
    """

    model: str
    pictures: Sequence[Picture]
    clients: int
    requests: int
    images_per_request: int = 1


@dataclass(frozen=True)
class Report:
    """What was answered.

    Attributes:
        latencies_s: of every answered request, in ascending order.
        answers: for every answered image the index of its picture and of its most probable label.
        batch_sizes: for every answered request the largest batch that carried one of its images.
        errors: what every refused request was refused with.
        duration_s: from the first request to the last answer.
    """

    latencies_s: list[float]
    answers: list[tuple[int, int]]
    batch_sizes: list[int]
    errors: list[str]
    duration_s: float

    def percentile_s(self, percent: float) -> float:
        """Give the latency that so many percent of the requests did not exceed; nearest rank.

        Raises:
            ValueError: no request was answered.
        """
        if not self.latencies_s:
            raise ValueError("no request was answered")
        rank = max(0, -(-len(self.latencies_s) * percent // 100) - 1)
        return self.latencies_s[int(rank)]


def closed_loop(load: Load, address: str = DEFAULT_ADDRESS) -> Report:
    """Run a load to its end; the clients start together, connected already.

    Raises:
        ClientError: the server cannot be reached at the start, or has no such model.
        TypeError: a picture that is neither bytes nor a uint8 array ``[H, W, C]``.
        ValueError: no client, or no picture.
    """
    if load.clients < 1 or not load.pictures:
        raise ValueError(f"{load.clients} clients with {len(load.pictures)} pictures ask nothing")
    lock = threading.Lock()
    started_s: list[float] = []
    barrier = threading.Barrier(load.clients, action=lambda: started_s.append(time.monotonic()))
    latencies_s: list[float] = []
    answers: list[tuple[int, int]] = []
    batch_sizes: list[int] = []
    errors: list[str] = []

    def run(number: int, client: Client) -> None:
        barrier.wait()
        for turn in range(load.requests):
            first = (number * load.requests + turn) * load.images_per_request
            indices = [(first + offset) % len(load.pictures) for offset in range(load.images_per_request)]
            asked_s = time.monotonic()
            try:
                response = client.classify_raw(load.model, [load.pictures[i] for i in indices], top_k=1)
            except ClientError as error:
                with lock:
                    errors.append(str(error))
                continue
            answered_s = time.monotonic()
            labels = [result.labels[0].label_index for result in response.classifications]
            with lock:
                latencies_s.append(answered_s - asked_s)
                answers.extend(zip(indices, labels, strict=True))
                batch_sizes.append(response.timing.batch_size)

    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(load.clients)]
        for client in clients:
            client.get_model(load.model)  # connects
        with ThreadPoolExecutor(load.clients) as pool:
            for running in [pool.submit(run, number, client) for number, client in enumerate(clients)]:
                running.result()
        duration_s = time.monotonic() - started_s[0]
    return Report(sorted(latencies_s), answers, batch_sizes, errors, duration_s)
