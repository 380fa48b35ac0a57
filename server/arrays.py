"""What goes into a network, and what comes out of it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from artifact.pictures import Pixels

Rows = Sequence[Pixels] | npt.NDArray[np.uint8]  # images, one by one or in an array [N, H, W, C]
Probabilities = npt.NDArray[np.float32]  # [N, K]
