"""From probabilities to the best labels."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from modelzoo.v1 import classifier_pb2
from server.arrays import Probabilities

DEFAULT_TOP_K = 5
_ON_THE_LOOP = 5_000  # labels; making them takes about 1 us each, and the loop does nothing else meanwhile
_FEW_LABELS = 64  # below, NumPy's calls take longer than sorting a list
_LENGTH_BYTES = 4  # in front of every element of raw BYTES

Ranked = TypeVar("Ranked")


def rank(
    probabilities: Probabilities, labels: tuple[str, ...], top_k: int
) -> list[classifier_pb2.Classification]:
    """Give the ``top_k`` most probable labels of every row, ties in the order of the labels.

    Args:
        probabilities: float32 ``[N, K]``.
        labels: K of them.
        top_k: 1 to K.
    """
    classifications = []
    for row in _best(probabilities, top_k):
        classification = classifier_pb2.Classification()
        for index, score in row:
            classification.labels.add(label=labels[index], label_index=index, probability=score)
        classifications.append(classification)
    return classifications


def rank_as_texts(probabilities: Probabilities, labels: tuple[str, ...], top_k: int) -> bytes:
    """Give the same as the Open Inference Protocol's classification does: raw BYTES ``[N, top_k]``.

    An element is ``probability:index:label``.
    """
    parts = []
    for row in _best(probabilities, top_k):
        for index, score in row:
            text = f"{score:f}:{index}:{labels[index]}".encode()
            parts += [len(text).to_bytes(_LENGTH_BYTES, "little"), text]
    return b"".join(parts)


async def off_the_loop(
    ranking: Callable[[Probabilities, tuple[str, ...], int], Ranked],
    probabilities: Probabilities,
    labels: tuple[str, ...],
    top_k: int,
) -> Ranked:
    """Rank in one of these forms, on a thread where it would hold up the event loop."""
    if len(probabilities) * top_k > _ON_THE_LOOP:
        return await asyncio.to_thread(ranking, probabilities, labels, top_k)
    return ranking(probabilities, labels, top_k)


def _best(probabilities: Probabilities, top_k: int) -> Iterator[Iterable[tuple[int, float]]]:
    """Give the positions and scores of the best labels of every row."""
    if probabilities.shape[1] <= _FEW_LABELS:
        for scores in probabilities.tolist():
            order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
            yield [(index, scores[index]) for index in order[:top_k]]
        return
    for row in probabilities:
        least = np.partition(row, -top_k)[-top_k]
        able = np.flatnonzero(row >= least)  # top_k of them, and more where some are as good as the last
        best = able[np.argsort(-row[able], kind="stable")[:top_k]]
        yield zip(best.tolist(), row[best].tolist(), strict=True)
