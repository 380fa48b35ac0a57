"""The memory of a CUDA device, as a metric that is read at every scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metrics import NAMESPACE


class DeviceMemoryCollector(Collector):
    """Reads the device.

    Args:
        device: its name, ``cuda:0``.
        used_bytes: measures what all processes take together.
        total_bytes: gives the size.
    """

    def __init__(self, device: str, used_bytes: Callable[[], int], total_bytes: Callable[[], int]) -> None:
        self._device = device
        self._used_bytes = used_bytes
        self._total_bytes = total_bytes

    def collect(self) -> Iterator[Metric]:
        """Read the device."""
        for name, text, read in (
            ("used", "Device memory that all processes take together.", self._used_bytes),
            ("total", "Device memory there is.", self._total_bytes),
        ):
            family = GaugeMetricFamily(f"{NAMESPACE}_device_memory_{name}_bytes", text, labels=["device"])
            family.add_metric([self._device], read())
            yield family
