"""From probabilities to the best labels, as they go over the wire."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from modelzoo.v1 import classifier_pb2
from server.errors import InvalidRequestError
from server.inference import Probabilities
from server.rpc import wire

DEFAULT_TOP_K = 5
# Labels of one answer, as many as a default batch of 32 images has of 1,000 classes: each comes as text, with
# some 40 bytes. All probabilities of more images are to be had as FP32.
MAX_LABELS = 32_768
# Making a label takes up to 2 us, choosing among 100 scores one; the event loop does nothing else meanwhile.
_LABELS_ON_THE_LOOP, _SCORES_ON_THE_LOOP = 2_000, 250_000
_FEW_SCORES = 64  # below, NumPy's calls take longer than sorting a list
_LENGTH_BYTES = 4  # in front of every element of raw BYTES
_FLOAT_BYTES = 4  # on the wire

_CLASSIFICATION = wire.tag(classifier_pb2.ClassifyResponse.CLASSIFICATIONS_FIELD_NUMBER, wire.BYTES)
_LABEL = wire.tag(classifier_pb2.Classification.LABELS_FIELD_NUMBER, wire.BYTES)
_PROBABILITY = wire.tag(classifier_pb2.LabelScore.PROBABILITY_FIELD_NUMBER, wire.FIXED32)

Labels = TypeVar("Labels")


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


class EncodedLabels(dict[int, bytes]):
    """The labels of one model as an answer of the classifier service has them: each is encoded once.

    By index it has a field of `Classification` up to the float that ends it, the probability.

    Args:
        labels: K of them.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__()
        self._labels = labels

    def __missing__(self, index: int) -> bytes:
        """Encode a label."""
        score = classifier_pb2.LabelScore(label=self._labels[index], label_index=index)
        # As long as it is with the float, which follows.
        field = wire.with_length(score.SerializeToString() + _PROBABILITY + bytes(_FLOAT_BYTES))
        encoded = self[index] = _LABEL + field[:-_FLOAT_BYTES]
        return encoded


def rank(probabilities: Probabilities, labels: EncodedLabels, top_k: int) -> bytes:
    """Write the ``top_k`` most probable labels of every row, ties in the order of the labels.

    Args:
        probabilities: float32 ``[N, K]``.
        top_k: 1 to K.

    Returns:
        The field `classifications` of a `ClassifyResponse`, N times; behind the other fields it is one.
    """
    positions, scores = _best(probabilities, top_k)
    encoded = [labels[index] for row in positions for index in row]
    floats = scores.astype("<f4", copy=False).tobytes()
    entries = [
        label + floats[at : at + _FLOAT_BYTES]
        for label, at in zip(encoded, range(0, len(floats), _FLOAT_BYTES), strict=True)
    ]
    rows = [b"".join(entries[at : at + top_k]) for at in range(0, len(entries), top_k)]
    return b"".join([_CLASSIFICATION + wire.with_length(row) for row in rows])


def rank_as_texts(probabilities: Probabilities, labels: tuple[str, ...], top_k: int) -> bytes:
    """Return the same as the Open Inference Protocol's classification does: raw BYTES ``[N, top_k]``.

    An element is ``probability:index:label``.
    """
    parts = []
    positions, scores = _best(probabilities, top_k)
    for indices, values in zip(positions, scores.tolist(), strict=True):
        for index, score in zip(indices, values, strict=True):
            text = f"{score:f}:{index}:{labels[index]}".encode()
            parts += [len(text).to_bytes(_LENGTH_BYTES, "little"), text]
    return b"".join(parts)


async def off_the_loop(
    ranking: Callable[[Probabilities, Labels, int], bytes],
    probabilities: Probabilities,
    labels: Labels,
    top_k: int,
) -> bytes:
    """Rank in one of these forms, on a thread where it would hold up the event loop."""
    if len(probabilities) * top_k > _LABELS_ON_THE_LOOP or probabilities.size > _SCORES_ON_THE_LOOP:
        return await asyncio.to_thread(ranking, probabilities, labels, top_k)
    return ranking(probabilities, labels, top_k)


def _best(probabilities: Probabilities, top_k: int) -> tuple[list[list[int]], Probabilities]:
    """Return the positions, and the scores, float32 ``[N, top_k]``, of the best labels of every row."""
    images, label_count = probabilities.shape
    if probabilities.size <= _FEW_SCORES:
        rows = probabilities.tolist()
        orders = [sorted(range(label_count), key=row.__getitem__, reverse=True)[:top_k] for row in rows]
        best = [[row[index] for index in order] for row, order in zip(rows, orders, strict=True)]
        return orders, np.array(best, np.float32)
    if label_count <= _FEW_SCORES:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        return order.tolist(), np.take_along_axis(probabilities, order, axis=1)
    # top_k in a row, and more where some are as good as the last
    able = probabilities >= np.partition(probabilities, -top_k, axis=1)[:, -top_k, np.newaxis]
    positions = []
    scores = np.empty((images, top_k), np.float32)
    for row, able_in_row, best_in_row in zip(probabilities, able, scores, strict=True):
        (candidates,) = able_in_row.nonzero()
        chosen = candidates[(-row[candidates]).argsort(kind="stable")[:top_k]]
        positions.append(chosen.tolist())
        best_in_row[:] = row[chosen]
    return positions, scores
