"""From the scores that a file gives to probabilities of its labels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from export.onnx_import.onnx_file import OnnxImportError

_SUM_TOLERANCE = 1e-3  # of probabilities, around 1; files in half precision are off by some 5e-4
# What changes the shape or the type of scores, and not the scores.
_NO_ACTIVATION = frozenset(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
_SIGMOIDS = frozenset(("HardSigmoid", "Sigmoid"))

Choice = Literal["auto", "softmax", "sigmoid", "none"]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """What is done with a file's scores, ``[N, S]``, to have probabilities, ``[N, K]``.

    Attributes:
        operator: `Softmax` or `Sigmoid`, which follows the file; empty where the scores are probabilities.
        score_count: S; of a single score, the probability of the second of two labels is made.
        multi_label: labels are independent, and the probabilities of a picture need not sum to 1.
    """

    operator: Literal["", "Sigmoid", "Softmax"]
    score_count: int
    multi_label: bool

    @property
    def label_count(self) -> int:
        """Return K."""
        return max(self.score_count, 2)

    @property
    def is_binary(self) -> bool:
        """Return whether the file gives one score for two labels."""
        return self.score_count == 1

    @property
    def changes(self) -> tuple[str, ...]:
        """Say what differs from the file as it came, one sentence each."""
        found = []
        if self.operator:
            made = "a probability" if self.is_binary else "probabilities"
            found.append(f"a {self.operator.lower()} makes {made} of the file's scores")
        if self.is_binary:
            found.append("its single score p becomes two probabilities: 1 - p (negative) and p (positive)")
        if self.multi_label:
            found.append(
                "labels are independent (multi-label): the probabilities of a picture need not sum to 1"
            )
        return tuple(found)

    def applied(self, scores: Floats) -> Floats:
        """Return probabilities, float32 ``[N, K]``, for scores ``[N, S]``, by NumPy."""
        exact = scores.astype(np.float64)
        if self.operator == "Softmax":
            powers = np.exp(exact - exact.max(axis=1, keepdims=True))
            exact = powers / powers.sum(axis=1, keepdims=True)
        elif self.operator == "Sigmoid":
            exact = np.exp(-np.logaddexp(0, -exact))
        if self.is_binary:
            exact = np.concatenate([1 - exact, exact], axis=1)
        probabilities: Floats = exact.astype(np.float32)
        return probabilities


def choose(choice: Choice, scores: Floats, maker: str) -> Activation:
    """Find out what is missing between scores and probabilities; what is there is not done twice.

    Args:
        choice: what the file's user says; ``auto`` looks at the scores.
        scores: of some pictures, ``[N, S]``.
        maker: the operator that makes them, see `maker_of`.

    Raises:
        OnnxImportError: it cannot be told, or the choice makes no probabilities of these scores.
    """
    count = scores.shape[1]
    in_range = bool((scores >= -_SUM_TOLERANCE).all() and (scores <= 1 + _SUM_TOLERANCE).all())
    sums_to_1 = in_range and bool((np.abs(scores.sum(axis=1) - 1) < _SUM_TOLERANCE).all())
    ends_in_sigmoid = in_range and maker in _SIGMOIDS
    if choice == "none" and not in_range:
        missing = "a sigmoid" if count == 1 else "a softmax, or a sigmoid"
        raise OnnxImportError(f"its scores are no probabilities, some are not in 0..1: they need {missing}")
    if count == 1:
        return _of_one_score(choice, in_range=in_range, ends_in_sigmoid=ends_in_sigmoid)
    if choice == "auto" and ends_in_sigmoid and not sums_to_1:
        raise OnnxImportError(
            "it ends in a Sigmoid, one probability a label: say which activation is meant, sigmoid (they are "
            "served as they are and need not sum to 1) or softmax (one follows)"
        )
    if choice == "sigmoid":
        return Activation("" if ends_in_sigmoid else "Sigmoid", count, multi_label=True)
    if choice == "none":
        return Activation("", count, multi_label=not sums_to_1)
    done = sums_to_1 and (choice == "auto" or maker == "Softmax")
    return Activation("" if done else "Softmax", count, multi_label=False)


def _of_one_score(choice: Choice, *, in_range: bool, ends_in_sigmoid: bool) -> Activation:
    """Find out whether one score is a probability already."""
    if choice == "softmax":
        raise OnnxImportError("it has one output, whose softmax is always 1; sigmoid or none is possible")
    if choice == "auto" and in_range and not ends_in_sigmoid:
        raise OnnxImportError(
            "its single output may be a probability or a score: say which activation is meant, none (it is "
            "one) or sigmoid (one follows)"
        )
    done = choice == "none" or ends_in_sigmoid
    return Activation("" if done else "Sigmoid", 1, multi_label=False)


def maker_of(graph: onnx.GraphProto, output: str) -> str:
    """Name the operator that makes an output, not counting what only gives it another shape or type."""
    makers = {name: node for node in graph.node for name in node.output}
    while output in makers and makers[output].op_type in _NO_ACTIVATION and makers[output].input:
        output = makers[output].input[0]
    return makers[output].op_type if output in makers else ""
