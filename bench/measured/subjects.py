"""The model that is measured: the file that both sides run, pictures for it, and their right labels."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifact import golden, layout, manifest
from artifact.errors import ArtifactError
from artifact.golden import CPU_PROVIDER, CUDA_PROVIDER, TOLERANCES
from artifact.layout import Entry
from bench.errors import BenchError
from bench.measured.bare import Graph, Images, Probabilities


@dataclass(frozen=True)
class Subject:
    """A model at one precision on one device.

    Attributes:
        labels: for every picture of the graph, the labels that are right: one, or those that are too close
            to each other for the artifact's tolerance to tell.
    """

    entry: Entry
    precision: str
    graph: Graph
    labels: Sequence[Set[int]]

    @property
    def certain(self) -> int:
        """Count the pictures with one right label."""
        return sum(len(labels) == 1 for labels in self.labels)


def find(name: str, repository: Path) -> Entry:
    """Find the newest version of a model.

    Raises:
        BenchError: there is none.
    """
    try:
        entries = {entry.name: entry for entry in layout.newest(repository)}
    except OSError as error:
        raise BenchError(f"{repository} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if name not in entries:
        held = ", ".join(entries) or "none"
        raise BenchError(f"{repository} holds no model called {name!r}; there is: {held}")
    return entries[name]


def read(entry: Entry, precision: str, device: str) -> tuple[Graph, Probabilities]:
    """Read an artifact.

    Returns:
        The graph with the golden pictures, and the published answers to them.

    Raises:
        BenchError: it is damaged, or has no such precision.
    """
    try:
        described = manifest.read(entry.folder)
        published = {one.name: one.file.name for one in described.precisions}
        if precision not in published:
            raise BenchError(f"{entry.name} has no {precision}; there is: {', '.join(published)}")
        kept = golden.read(entry.folder / described.golden.name)
    except (ArtifactError, OSError) as error:
        raise BenchError(f"{entry.name}: {error}") from error
    return Graph(entry.folder / published[precision], device, kept.images), kept.expected(precision)


def subject(
    entry: Entry, precision: str, graph: Graph, expected: Probabilities, *, same_file_here: bool
) -> Subject:
    """Find out which labels are right.

    Args:
        expected: probabilities of the graph's images, float32 ``[N, K]``.
        same_file_here: whether they come from this file on this machine, so that nothing but the size of a
            batch can change them; else from where it was exported.
    """
    provider = CPU_PROVIDER if graph.device == "cpu" else CUDA_PROVIDER
    # Rounding to integers hides the rounding of floats: on one machine int8 repeats itself as fp32 does.
    like = "fp32" if same_file_here and precision == "int8" else precision
    tolerance = TOLERANCES[like].get(provider, TOLERANCES[precision][CPU_PROVIDER])
    best = expected.max(axis=1, keepdims=True)  # [N, 1]
    labels = [frozenset(np.flatnonzero(row).tolist()) for row in np.asarray(expected >= best - 2 * tolerance)]
    # Pictures that cannot tell right from wrong are left out, unless there are no others.
    telling = [index for index, right in enumerate(labels) if len(right) == 1] or list(range(len(labels)))
    images: Images = np.ascontiguousarray(graph.images[telling])
    return Subject(
        entry, precision, Graph(graph.path, graph.device, images), [labels[index] for index in telling]
    )
