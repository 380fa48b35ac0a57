"""`modelzoo bench`: its options, which are many, and what it does."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.terminal.console import err, out, print_json, refuse, refusing
from cli.terminal.options import MODELS, AsJson, Repository


def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models.")],
    address: Annotated[
        str | None,
        typer.Option(
            help="host:port of a running server.", show_default="one is started", envvar="MODELZOO_ADDRESS"
        ),
    ] = None,
    protocol: Annotated[
        Literal["modelzoo", "open-inference"], typer.Option(help="What the server at --address speaks.")
    ] = "modelzoo",
    pid: Annotated[
        int | None, typer.Option(help="Its process, to know its processor time and memory.", min=1)
    ] = None,
    repository: Repository = MODELS,
    precision: Annotated[
        str | None, typer.Option(help="As of serve.", show_default="auto", envvar="MODELZOO_PRECISION")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="As of serve.", show_default="auto", envvar="MODELZOO_DEVICE")
    ] = None,
    frontends: Annotated[
        int | None, typer.Option(help="As of serve.", show_default="0", envvar="MODELZOO_FRONTENDS", min=0)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings of the server that is started.", envvar="MODELZOO_CONFIG")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests outstanding.", min=1)] = 16,
    images: Annotated[int, typer.Option(help="Images in a request.", min=1)] = 1,
    streams: Annotated[
        int, typer.Option(help="Calls that stay open and carry the requests; 0: a call each.", min=0)
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Length of every loop.", min=0.1)] = 5.0,
    rounds: Annotated[int, typer.Option(help="How often each side is measured, by turns.", min=1)] = 5,
    generator: Annotated[
        Literal["auto", "h2load", "python"],
        typer.Option(help="What asks; auto takes h2load for calls, where it is installed."),
    ] = "auto",
    rate: Annotated[
        str | None,
        typer.Option(help="Open loop, too: requests a second, or a share of capacity, as in 0.7x."),
    ] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Deadline of the requests of the open loop.", min=1)
    ] = None,
    starts: Annotated[
        int, typer.Option(help="Servers to start, to measure the first 1,000 requests of each.", min=0)
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what serving costs: a server against ONNX Runtime alone on the same file, by turns."""
    with refusing():
        from bench.comparison import comparison, tables
        from bench.errors import BenchError
        from bench.plan import Plan, rate_of

    with refusing(BenchError):
        plan = Plan(
            repository=repository,
            precision=precision,
            device=device,
            frontends=frontends,
            config=config,
            address=address,
            protocol=protocol,
            pid=pid,
            outstanding=concurrency,
            images=images,
            streams=streams,
            seconds=seconds,
            rounds=rounds,
            generator=generator,
            rate=None if rate is None else rate_of(rate),
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            starts=starts,
        )
        measured = [comparison.compare(name, plan, err.print) for name in names]
    if as_json:
        print_json([dataclasses.asdict(one) for one in measured])
    else:
        out.print(tables.title(measured[0]), soft_wrap=True)
        out.print(tables.table(measured))
    failed = [
        f"{one.failed:,} of {one.model}" + (f", refused: {one.refusals}" if one.refusals else "")
        for one in measured
        if one.failed
    ]
    if failed:
        refuse(f"requests without a right answer: {'; '.join(failed)}")
