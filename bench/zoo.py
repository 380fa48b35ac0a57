"""The table of the zoo: every exported model's figures, out of the manifests.

    python -m bench.zoo [--repository models] [--readme README.md] [--measure]

Replaces what is between the two markers in the file; prints the table where no file is named. With
`--measure`, speeds are those of this machine now, in sessions as the server opens them, and not what the
manifests say.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from artifact import execution, layout, manifest
from artifact.errors import ArtifactError
from bench.measured import bare
from modelzoo.v1 import manifest_pb2
from server.runtime.device import Device, open_session

BEGIN, END = "<!-- zoo: written by `make zoo` -->", "<!-- end of zoo -->"
BATCH_SIZES = (1, 8)
_HEAD = (
    *("model", "year", "parameters", "MMACs", "MB", "right, %"),
    *(f"images/s at {batch_size}" for batch_size in BATCH_SIZES),
)


def main() -> int:
    """Write the table; 1 where a manifest or the markers cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--readme", type=Path, help="file with the two markers")
    parser.add_argument(
        "--measure",
        type=float,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="SECONDS",
        help="time every file anew",
    )
    options = parser.parse_args()
    try:
        table = "\n".join(lines(options.repository, options.measure))
        if options.readme is None:
            sys.stdout.write(f"{table}\n")
        else:
            replace(options.readme, table)
    except (ArtifactError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def lines(repository: Path, measure_s: float = 0.0) -> Iterator[str]:
    """Yield the table's lines in Markdown, oldest paper first.

    Args:
        measure_s: of every file and batch size, where they are to be timed anew.

    Raises:
        ArtifactError: a manifest is not one.
        OSError: the repository cannot be read.
        Exception: ONNX Runtime's own, where a file that is timed cannot be run.
    """
    entries = list(layout.newest(repository))
    described = [manifest.read(entry.folder) for entry in entries]
    if measure_s:
        for entry, one in zip(entries, described, strict=True):
            _measure(entry.folder, one, measure_s)
    yield f"| {' | '.join(_HEAD)} |"
    yield f"| --- |{' ---: |' * (len(_HEAD) - 1)}"
    for one in sorted(described, key=lambda one: (one.paper.year or 9999, one.name)):
        yield f"| {' | '.join(_cells(one))} |"
    yield ""
    precisions = " / ".join(layout.MODEL_FILES)
    speeds = "images/s of ONNX Runtime alone, in sessions as the server opens them"
    yield f"{precisions}; {speeds}, {_machines(described)}."


def replace(path: Path, table: str) -> None:
    """Put a table between the markers of a file.

    Raises:
        ValueError: the file lacks a marker.
        OSError: the file cannot be read or written.
    """
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks {END if begin else BEGIN}")
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")


def _measure(folder: Path, described: manifest_pb2.Manifest, seconds: float) -> None:
    """Time the files of an artifact on the CPU, and put the latencies in the place of those it has."""
    device = Device("cpu", None, execution.core_count()).suited(described.macs)
    shape = (described.input.height, described.input.width, described.input.channels)
    images = np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), *shape), np.uint8)
    for precision in described.precisions:
        run = bare.runner(open_session(folder / precision.file.name, device))
        del precision.latencies[:]
        for batch_size in BATCH_SIZES:
            alone = bare.Arrangement(callers=1, threads=device.threads, batch_size=batch_size)
            median_s = float(np.median(bare.timed(run, images, alone, seconds).run_s))
            precision.latencies.add(provider=device.provider, batch_size=batch_size, median_s=median_s)
    described.machine.CopyFrom(manifest_pb2.Machine(processor=execution.processor(), threads=device.threads))


def _cells(one: manifest_pb2.Manifest) -> Iterator[str]:
    precisions = {precision.name: precision for precision in one.precisions}

    def each(figures: dict[str, str]) -> str:
        return " / ".join(figures.get(name, "-") for name in layout.MODEL_FILES)

    yield f"`{one.name}`"
    yield str(one.paper.year) if one.HasField("paper") else "-"
    yield f"{one.parameters:,}"
    yield f"{one.macs / 1e6:,.1f}"
    yield each({name: f"{precision.file.size_bytes / 1e6:,.1f}" for name, precision in precisions.items()})
    yield each({name: _accuracy(precision) for name, precision in precisions.items()})
    for batch_size in BATCH_SIZES:
        yield each({name: _speed(precision, batch_size) for name, precision in precisions.items()})


def _accuracy(precision: manifest_pb2.Precision) -> str:
    ratio = manifest.accuracy_ratio(precision)
    return "not measured" if ratio is None else f"{100 * ratio:.2f}"


def _speed(precision: manifest_pb2.Precision, batch_size: int) -> str:
    for latency in precision.latencies:
        if latency.batch_size == batch_size:
            return f"{batch_size / latency.median_s:,.0f}"
    return "-"


def _machines(described: list[manifest_pb2.Manifest]) -> str:
    found = sorted({manifest.machine_text(one.machine) for one in described})
    return "; ".join(found) or "on no machine yet"


if __name__ == "__main__":
    sys.exit(main())
