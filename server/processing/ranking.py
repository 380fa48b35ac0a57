"""From probabilities to the best labels."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from modelzoo.v1 import classifier_pb2
from server.errors import InvalidRequestError
from server.inference import Probabilities

DEFAULT_TOP_K = 5
# Labels of one answer, as many as a default batch of 32 images has of 1,000 classes: each comes as text, with
# some 40 bytes. All probabilities of more images are to be had as FP32.
MAX_LABELS = 32_768
_ON_THE_LOOP = 500  # labels; making them takes up to 5 us each, and the loop does nothing else meanwhile
_FEW_LABELS = 64  # below, NumPy's calls take longer than sorting a list
_LENGTH_BYTES = 4  # in front of every element of raw BYTES

Ranked = TypeVar("Ranked")


def require_labels(field: str, images: int, top_k: int) -> None:
    """Check how many labels an answer would have, before anything is decoded.

    Args:
        field: of the request, that asks for so many of each image.

    Raises:
        InvalidRequestError: they are too many.
    """
    if images * top_k > MAX_LABELS:
        raise InvalidRequestError(
            field, f"{top_k} labels of {images} images are {images * top_k:,}, more than {MAX_LABELS:,}"
        )


def rank(
    response: classifier_pb2.ClassifyResponse,
    probabilities: Probabilities,
    labels: tuple[str, ...],
    top_k: int,
) -> None:
    """Add the ``top_k`` most probable labels of every row, ties in the order of the labels.

    Args:
        response: where to; what was made elsewhere would have to be copied there.
        probabilities: float32 ``[N, K]``.
        labels: K of them.
        top_k: 1 to K.
    """
    for row in _best(probabilities, top_k):
        classification = response.classifications.add()
        for index, score in row:
            classification.labels.add(label=labels[index], label_index=index, probability=score)


def rank_as_texts(probabilities: Probabilities, labels: tuple[str, ...], top_k: int) -> bytes:
    """Return the same as the Open Inference Protocol's classification does: raw BYTES ``[N, top_k]``.

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
    """Return the positions and scores of the best labels of every row."""
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
