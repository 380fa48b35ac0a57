"""Comparisons to be read: a table with a line a figure, and a column a model."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from bench.comparison.comparison import Comparison
from bench.comparison.first_requests import Starts
from bench.comparison.open_report import Open
from bench.comparison.report import Closed, Latency

_NOTHING = "-"
_MS = 1e3

Line = tuple[str, str]


def title(one: Comparison) -> str:
    """Say in a line what all models' figures have in common."""
    how = f"over {one.streams} streams" if one.streams else "with a call each"
    server = "a server of its own" if one.started_here else f"{one.address} ({one.protocol})"
    return (
        f"{one.processor or 'unknown processor'}, {one.cores} cores, {server}; {one.outstanding} requests of "
        f"{one.images_per_request} images outstanding, {how}, {one.connections} connections; "
        f"{len(one.closed.rounds)} rounds"
    )


def table(comparisons: Sequence[Comparison]) -> Table:
    """Draw the table."""
    columns = [dict(_lines(one)) for one in comparisons]
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("")
    for one in comparisons:
        drawn.add_column(f"{one.model} {one.precision}", overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column):
        drawn.add_row(name, *(column.get(name, _NOTHING) for column in columns))
    return drawn


def _lines(one: Comparison) -> Iterator[Line]:
    yield from _closed(one.closed)
    yield "pictures with one right label", f"{one.certain_pictures} of {one.pictures}"
    if one.open is not None:
        yield from _open(one.open)
    if one.starts is not None:
        yield from _starts(one.starts)


def _closed(closed: Closed) -> Iterator[Line]:
    best = closed.bare
    yield "bare images/s", f"{closed.bare_images_per_s:,.1f}"
    yield "bare loop", f"{best.callers} x {best.threads} threads, batch {best.batch_size}"
    yield "served images/s", f"{closed.served_images_per_s:,.1f}"
    yield "served / bare", "{:.3f} ({:.3f}-{:.3f})".format(closed.ratio, *closed.ratio_range)
    yield from _percentiles("", closed.latency)
    if closed.added_p50_s is not None:
        yield "bare p50 ms", _figure(closed.bare_p50_s, ".3f", _MS)
        yield "added to it, ms", _figure(closed.added_p50_s, ".3f", _MS)
    yield "mean batch", _figure(closed.mean_batch, ".1f")
    yield "server CPU s / 1,000 images", _figure(closed.server_cpu_s_per_1000_images, ".3f")
    yield "client CPU s / 1,000 images", _figure(closed.client_cpu_s_per_1000_images, ".3f")
    yield "requests / server CPU s", _figure(closed.requests_per_server_cpu_s, ",.0f")
    yield "asked by", closed.generator
    yield "requests answered", f"{closed.requests:,}"
    yield "answers checked", f"{closed.checked:,}"
    yield "wrong, refused, hung", f"{closed.wrong:,}, {_counts(closed.refused)}, {closed.hung:,}"


def _open(opened: Open) -> Iterator[Line]:
    yield "open loop, requests/s", f"{opened.rate_per_s:,.1f}"
    yield "open answered/s", f"{opened.answered_per_s:,.1f}"
    yield "open answered / capacity", _figure(opened.goodput, ".3f")
    yield from _percentiles("open ", opened.latency)
    if opened.ideal is not None:
        yield from _percentiles("ideal ", opened.ideal)
        yield "open p99 / ideal p99", _figure(opened.p99_to_ideal, ".2f")
    yield "open lag p99 ms", _figure(opened.lag.p99_s, ",.2f", _MS)
    yield "open mean batch", _figure(opened.mean_batch, ".1f")
    yield "open wrong, refused, hung", f"{opened.wrong:,}, {_counts(opened.refused)}, {opened.hung:,}"
    if opened.memory_bytes is not None:
        before, after = opened.memory_bytes
        yield "server MB, before and after", f"{before / 1e6:,.1f} {after / 1e6:,.1f}"


def _starts(starts: Starts) -> Iterator[Line]:
    yield "first requests", f"{starts.starts} x {starts.requests_each:,}"
    yield from _percentiles("first ", starts.first)
    yield from _percentiles("then ", starts.steady)
    yield "first p99 / then p99", _figure(starts.p99_to_steady, ".2f")


def _percentiles(which: str, latency: Latency) -> Iterator[Line]:
    yield f"{which}p50 ms", _figure(latency.p50_s, ",.2f", _MS)
    yield f"{which}p90 ms", _figure(latency.p90_s, ",.2f", _MS)
    yield f"{which}p99 ms", _figure(latency.p99_s, ",.2f", _MS)
    yield f"{which}p99.9 ms", _figure(latency.p99_9_s, ",.2f", _MS)


def _figure(value: float | None, form: str, times: float = 1) -> str:
    return _NOTHING if value is None else format(value * times, form)


def _counts(counts: dict[str, int]) -> str:
    return " + ".join(f"{count:,} {code}" for code, count in sorted(counts.items())) or "0"
