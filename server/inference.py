"""What both columns say of an inference: images, their priority, their answer, and what takes them."""

import asyncio
from collections.abc import Callable, Sequence
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


class PendingAnswer(asyncio.Future[Answer]):
    """The answer to images that wait, or run.

    Attributes:
        on_batch_ended: called whenever a batch that carried some of the images has ended.
    """

    __slots__ = ("on_batch_ended",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.on_batch_ended: Callable[[], None] | None = None

    @property
    def is_in_batch(self) -> bool:
        """Whether a batch that runs may still read the images, even if this is settled."""
        return False


class Submit(Protocol):
    """Queues images of one model; the same for a caller in the engine and in a front end."""

    def __call__(
        self,
        images: Rows,
        deadline_s: float | None = None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        peer: str = "",
    ) -> PendingAnswer:
        """Return the future of their answer; see `Batcher.submit`.

        Raises:
            ModelZooError: they are rejected.
        """
