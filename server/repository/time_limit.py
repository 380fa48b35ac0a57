"""The time that opening and proving a network may take."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import onnxruntime

from server.runtime.network import Network, OnnxNetwork


class TimeLimit:
    """Time that opening and proving a network may take.

    ONNX Runtime ends a run between two of its nodes; how much one node may compute, `graph_limits` bounds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._ends_s = time.monotonic() + timeout_s

    def require(self) -> None:
        """Require that some time is left.

        Raises:
            TimeoutError: none is.
        """
        if time.monotonic() >= self._ends_s:
            raise TimeoutError

    @contextmanager
    def on(self, network: Network) -> Iterator[None]:
        """End the runs of a network when the time is over.

        Raises:
            TimeoutError: it was.
        """
        if not isinstance(network, OnnxNetwork) or self._ends_s == math.inf:
            yield
            return
        options = onnxruntime.RunOptions()
        alarm = threading.Timer(
            max(0.0, self._ends_s - time.monotonic()), setattr, (options, "terminate", True)
        )
        alarm.daemon = True
        alarm.start()
        network.run_with(options)
        try:
            yield
        except Exception:
            self.require()  # what ONNX Runtime calls a run that was ended
            raise
        finally:
            alarm.cancel()
            network.run_with(None)
