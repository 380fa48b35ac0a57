"""From probabilities to the best labels."""

import numpy as np

from modelzoo.v1 import classifier_pb2
from server.network import Probabilities

DEFAULT_TOP_K = 5


def rank(
    probabilities: Probabilities, labels: tuple[str, ...], top_k: int
) -> list[classifier_pb2.Classification]:
    """Give the ``top_k`` most probable labels of every row, ties in the order of the labels.

    Args:
        probabilities: float32 ``[N, K]``.
        labels: K of them.
        top_k: 1 to K.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]  # [N, top_k]
    scores = np.take_along_axis(probabilities, best, axis=1)  # [N, top_k]
    return [
        classifier_pb2.Classification(
            labels=[
                classifier_pb2.LabelScore(label=labels[index], label_index=index, probability=score)
                for index, score in zip(indices, row, strict=True)
            ]
        )
        for indices, row in zip(best.tolist(), scores.tolist(), strict=True)
    ]
