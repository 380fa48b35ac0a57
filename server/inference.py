"""What both columns say of an inference: images, their priority, their answer, and what takes them."""

from collections.abc import Awaitable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from artifact.pictures import Pixels

Rows = Sequence[Pixels] | npt.NDArray[np.uint8]  # images, one by one or in an array [N, H, W, C]
Probabilities = npt.NDArray[np.float32]  # [N, K]


class Priority(IntEnum):
    """Which images run first; `batching.priorities` has the policy."""

    INTERACTIVE = 0
    BULK = 1


class Answer(NamedTuple):
    """The answer to images that were submitted together.

    Attributes:
        probabilities: float32 ``[N, K]``, in the order of the images.
        queue_s: longest wait of an image.
        infer_s: longest run of a batch that carried one of the images.
        batch_size: images in the largest such batch.
    """

    probabilities: Probabilities
    queue_s: float
    infer_s: float
    batch_size: int


class Submit(Protocol):
    """Queues images of one model; the same for a caller in the engine and in a front end."""

    def __call__(
        self,
        images: Rows,
        deadline_s: float | None = None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        peer: str = "",
    ) -> Awaitable[Answer]:
        """Return the future of their answer; see `Batcher.submit`."""
