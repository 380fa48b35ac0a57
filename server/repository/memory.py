"""What this process and its device take of memory, as loading a model measures it."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from server import machine
from server.observability.guarded import Guarded
from server.runtime.device import Device


@dataclass(frozen=True)
class MemoryMeter:
    """Measures what is taken now, in bytes.

    Attributes:
        host: of this process.
        device: of the CUDA device; absent where there is none.
    """

    host: Callable[[], int]
    device: Callable[[], int] | None = None


def open_memory(device: Device, registry: CollectorRegistry, log: FilteringBoundLogger) -> MemoryMeter:
    """Find out how a device's memory is measured, and have a registry show it.

    Args:
        log: has the reason where the driver gives no figures; only the host is measured then.
    """
    if device.ordinal is None:
        return MemoryMeter(machine.host_memory_bytes)
    from server.observability.gpu_memory import DeviceMemoryCollector, GpuMemory  # loads NVML

    try:
        gpu = GpuMemory(device.ordinal)
    except OSError as error:
        log.warning("device_memory_unknown", reason=str(error))
        return MemoryMeter(machine.host_memory_bytes)
    collector = DeviceMemoryCollector(device.name, gpu.used_bytes, gpu.total_bytes)
    registry.register(Guarded(collector, log))
    return MemoryMeter(machine.host_memory_bytes, gpu.used_bytes)
