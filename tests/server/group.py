"""Looks into a server's front ends: which one a client is connected to, and what each has."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client.parser import text_string_to_metric_families

from client import Client
from server.frontends.supervisor import FrontendSupervisor


def supervisors(running) -> list[FrontendSupervisor]:
    return running.front._supervisors


def pids(running) -> dict[int, int]:
    """The process of each front end that listened last, by its number."""
    events = map(json.loads, running.log.getvalue().splitlines())
    return {e["frontend"]: e["pid"] for e in events if e["event"] == "frontend_listening"}


def logged(running, event: str) -> list[dict[str, object]]:
    return [e for e in map(json.loads, running.log.getvalue().splitlines()) if e["event"] == event]


def scrape(running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(running.metrics_url) as response:
        page = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def total(running, name: str, **labels: str) -> float:
    """Add up the series of a name that have these labels."""
    wanted = labels.items()
    return sum(value for (series, its), value in scrape(running).items() if series == name and wanted <= its)


def home(running, client: Client) -> int:
    """Find out which front end a client is connected to."""
    before = _listings(running)
    client.list_models()
    after = _listings(running)
    [number] = [number for number in after if after[number] != before[number]]
    return number


@contextmanager
def one_client_each(running) -> Iterator[dict[int, Client]]:
    """Give a client of each front end; the kernel spreads connections, so it takes some."""
    with ExitStack() as stack:
        found: dict[int, Client] = {}
        while len(found) < len(supervisors(running)):
            client = stack.enter_context(running.client())
            found.setdefault(home(running, client), client)
        yield found


def _listings(running) -> dict[int, float]:
    scrape(running)  # has each say what it counted
    return {
        supervisor._number: sum(
            value
            for (name, labels), value in supervisor.connection.counters.counts["grpc_server_started"].items()
            if "ListModels" in labels
        )
        for supervisor in supervisors(running)
    }
