"""The memory of a CUDA device: measured, and as a metric that is read at every scrape."""

from collections.abc import Callable, Iterator

import pynvml
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.observability.metrics import NAMESPACE


class GpuMemory:
    """The memory of one CUDA device, as the driver counts it for all processes together.

    Per-process figures are not used: they are missing or wrong inside containers.

    Args:
        ordinal: the device's number, as in ``cuda:0``.

    Raises:
        OSError: the driver does not answer.
    """

    def __init__(self, ordinal: int) -> None:
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(ordinal)
        except pynvml.NVMLError as error:
            raise OSError(f"NVML does not answer for device {ordinal}: {error}") from error

    def used_bytes(self) -> int:
        """Measure what is taken."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def total_bytes(self) -> int:
        """Return the size."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).total)


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
