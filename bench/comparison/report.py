"""The figures of a comparison, as `--json` gives them."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.load.load import Floats, Report, percentile_s
from bench.measured.bare import Arrangement, Timing
from bench.measured.exposition import Work


@dataclass(frozen=True)
class Latency:
    """Percentiles, in seconds; None where nothing was answered."""

    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    p99_9_s: float | None


@dataclass(frozen=True)
class Served:
    """One load on the server, and what it cost.

    Attributes:
        check: of a generator that cannot check answers, a load of one that can.
        cpu_s: the server's; None where we cannot know.
        work: that the server says it has done; None where it does not say.
    """

    report: Report
    check: Report | None
    cpu_s: float | None
    work: Work | None

    @property
    def unseen(self) -> Counter[str]:
        """Count the refusals that the generator took for answers, by the server's own count."""
        if self.check is None or self.work is None:
            return Counter()
        # What h2load has under way at its end it cancels.
        return Counter({code: n for code, n in (+self.work.ended).items() if code not in {"OK", "CANCELLED"}})

    @property
    def answered(self) -> int:
        """Count the requests that were answered, refused ones left out."""
        return max(0, self.report.answered - self.unseen.total())

    @property
    def images_per_s(self) -> float:
        """Return the images that were answered in a second, refused ones left out."""
        speed = self.report.images_per_s()
        return speed * self.answered / self.report.answered if self.unseen else speed

    @property
    def latencies_s(self) -> Floats:
        """Return the latencies of the answers in the measured time; none where refusals are among them."""
        return self.report.measured_latencies_s[: 0 if self.unseen else None]

    @property
    def images(self) -> float:
        """Count the images that were answered, by the server's own count where there is one."""
        if self.work is not None:
            return self.work.images
        return self.answered * self.report.images_per_request

    @property
    def refused(self) -> Counter[str]:
        """Count what was refused; a generator that sees no status leaves that to the server."""
        return self.report.refused + self.unseen


@dataclass(frozen=True)
class Round:
    """Both sides, one after the other."""

    bare: Timing
    served: Served


@dataclass(frozen=True)
class Closed:
    """So many requests outstanding, against the bare loop; medians of the rounds.

    Attributes:
        ratio: served / bare, of each round.
        ratio_range: the least and the greatest of these.
        rounds: bare and served images per second, as they were measured.
        latency: of all rounds' requests together.
        bare_p50_s: of a bare run.
        added_p50_s: what the server added to it, where one request at a time was asked.
        requests_per_server_cpu_s: what the server could do if it had a core to itself.
        requests: that were answered.
        checked: how many of these, or of the ones beside them, were held against the right label.
        refused: by status.
        messages: the server's message to the first of these, by status, as far as the generator sees it.
        failed: requests without a right answer, refused ones included.
    """

    generator: str
    bare: Arrangement
    bare_images_per_s: float
    served_images_per_s: float
    ratio: float
    ratio_range: tuple[float, float]
    rounds: list[tuple[float, float]]
    latency: Latency
    bare_p50_s: float
    added_p50_s: float | None
    mean_batch: float | None
    server_cpu_s_per_1000_images: float | None
    client_cpu_s_per_1000_images: float | None
    requests_per_server_cpu_s: float | None
    requests: int
    checked: int
    wrong: int
    refused: dict[str, int]
    messages: dict[str, str]
    hung: int
    failed: int


def closed(rounds: Sequence[Round], arrangement: Arrangement, *, one_at_a_time: bool) -> Closed:
    """Put the rounds together."""
    loads = [one.served for one in rounds]
    reports = [load.report for load in loads]
    checks = [load.check for load in loads if load.check is not None]
    speeds = [(one.bare.images_per_s, one.served.images_per_s) for one in rounds]
    ratios = [served / bare for bare, served in speeds]
    latency = percentiles([load.latencies_s for load in loads])
    bare_p50_s = float(np.median(np.concatenate([one.bare.run_s for one in rounds])))
    refused = sum((load.refused for load in loads), sum((check.refused for check in checks), Counter[str]()))
    wrong = sum(report.wrong for report in (*reports, *checks))
    hung = sum(report.hung for report in (*reports, *checks))
    images = sum(load.images for load in loads)
    cpu_s = total([load.cpu_s for load in loads])
    return Closed(
        generator=reports[0].generator,
        bare=arrangement,
        bare_images_per_s=statistics.median(bare for bare, _ in speeds),
        served_images_per_s=statistics.median(served for _, served in speeds),
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        rounds=speeds,
        latency=latency,
        bare_p50_s=bare_p50_s,
        added_p50_s=latency.p50_s - bare_p50_s if one_at_a_time and latency.p50_s is not None else None,
        mean_batch=mean_batch(loads),
        server_cpu_s_per_1000_images=per(cpu_s, images / 1000),
        client_cpu_s_per_1000_images=per(sum(report.client_cpu_s for report in reports), images / 1000),
        requests_per_server_cpu_s=per(images / reports[0].images_per_request, cpu_s),
        requests=sum(load.answered for load in loads),
        checked=sum(report.answered + report.wrong for report in (checks or reports)),
        wrong=wrong,
        refused=dict(refused),
        messages=messages([*reports, *checks]),
        hung=hung,
        failed=wrong + hung + refused.total(),
    )


def messages(reports: Sequence[Report]) -> dict[str, str]:
    """Return the message to the first request that was refused with each status."""
    return {code: text for report in reversed(reports) for code, text in report.messages.items()}


def refusals(refused: Mapping[str, int], texts: Mapping[str, str]) -> str:
    """Describe refusals in a line, most frequent first: how many, which status, the server's message."""
    most = sorted(refused.items(), key=lambda one: -one[1])
    return ", ".join(
        f"{count:,} {code}" + (f" ({texts[code]})" if texts.get(code) else "") for code, count in most
    )


def percentiles(latencies_s: Sequence[Floats]) -> Latency:
    """Return the percentiles of several loads' latencies together."""
    pooled_s = np.concatenate([np.zeros(0), *latencies_s])
    if not len(pooled_s):
        return Latency(None, None, None, None)
    return Latency(*(percentile_s(pooled_s, percent) for percent in (50, 90, 99, 99.9)))


def mean_batch(loads: Sequence[Served]) -> float | None:
    """Return the images that ran together: by the server's count, else as its answers say."""
    works = [load.work for load in loads if load.work is not None]
    if works:
        return per(sum(work.images for work in works), sum(work.batches for work in works))
    said = [load.report.mean_batch for load in loads if load.report.mean_batch is not None]
    return statistics.mean(said) if said else None


def total(parts: Sequence[float | None]) -> float | None:
    """Add up; None where one part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def per(what: float | None, of: float | None) -> float | None:
    """Divide; None where there is nothing to divide, or to divide by."""
    return what / of if what is not None and of else None
