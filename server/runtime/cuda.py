"""The calls of the CUDA runtime that the engine makes: streams, events, copies, pinned memory.

A seam: `PipelinedNetwork` sees the protocol, and tests put a machine of their own behind it.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from server.errors import DeviceError

Array = npt.NDArray[np.generic]
Stream = int
Event = Any  # the runtime's own handle


class Cuda(Protocol):
    """What the engine asks of a CUDA device; every call may raise `DeviceError`."""

    def stream(self) -> Stream:
        """Make a queue of work that waits for no other."""

    def event(self) -> Event:
        """Make a mark that can be put into a stream."""

    def pin(self, array: Array) -> None:
        """Let the device read and write an array's memory directly, until `unpin`."""

    def unpin(self, array: Array) -> None:
        """Let the memory go."""

    def copy_in(self, pointer: int, array: Array, stream: Stream) -> None:
        """Queue a copy of a pinned array to the device."""

    def copy_out(self, array: Array, pointer: int, stream: Stream) -> None:
        """Queue a copy from the device to a pinned array."""

    def record(self, event: Event, stream: Stream) -> None:
        """Mark the place that a stream has come to."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Have a stream wait for a mark; the caller does not."""

    def synchronize(self, event: Event) -> None:
        """Wait for a mark."""

    def synchronize_stream(self, stream: Stream) -> None:
        """Wait for all of a stream's work."""

    def release(self, streams: list[Stream], events: list[Event]) -> None:
        """Return streams and events back."""


class CudaRuntime:
    """The real one, on one device; all calls come from the lane's thread.

    Raises:
        DeviceError: there is no such device.
    """

    _NON_BLOCKING = 1  # cudaStreamNonBlocking
    _NO_TIMING = 2  # cudaEventDisableTiming

    def __init__(self, ordinal: int) -> None:
        from cuda.bindings import runtime  # absent from machines without CUDA

        self._runtime = runtime
        self._to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._to_host = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(runtime.cudaSetDevice(ordinal))

    def stream(self) -> Stream:
        """See `Cuda`."""
        return int(self._call(self._runtime.cudaStreamCreateWithFlags(self._NON_BLOCKING)))

    def event(self) -> Event:
        """See `Cuda`."""
        return self._call(self._runtime.cudaEventCreateWithFlags(self._NO_TIMING))

    def pin(self, array: Array) -> None:
        """See `Cuda`."""
        self._call(self._runtime.cudaHostRegister(array.ctypes.data, array.nbytes, 0))

    def unpin(self, array: Array) -> None:
        """See `Cuda`."""
        self._call(self._runtime.cudaHostUnregister(array.ctypes.data))

    def copy_in(self, pointer: int, array: Array, stream: Stream) -> None:
        """See `Cuda`."""
        self._call(
            self._runtime.cudaMemcpyAsync(pointer, array.ctypes.data, array.nbytes, self._to_device, stream)
        )

    def copy_out(self, array: Array, pointer: int, stream: Stream) -> None:
        """See `Cuda`."""
        self._call(
            self._runtime.cudaMemcpyAsync(array.ctypes.data, pointer, array.nbytes, self._to_host, stream)
        )

    def record(self, event: Event, stream: Stream) -> None:
        """See `Cuda`."""
        self._call(self._runtime.cudaEventRecord(event, stream))

    def wait(self, stream: Stream, event: Event) -> None:
        """See `Cuda`."""
        self._call(self._runtime.cudaStreamWaitEvent(stream, event, 0))

    def synchronize(self, event: Event) -> None:
        """See `Cuda`."""
        self._call(self._runtime.cudaEventSynchronize(event))

    def synchronize_stream(self, stream: Stream) -> None:
        """See `Cuda`."""
        self._call(self._runtime.cudaStreamSynchronize(stream))

    def release(self, streams: list[Stream], events: list[Event]) -> None:
        """See `Cuda`."""
        for event in events:
            self._call(self._runtime.cudaEventDestroy(event))
        for stream in streams:
            self._call(self._runtime.cudaStreamDestroy(stream))

    def _call(self, result: tuple[Any, ...]) -> Any:
        """Return what a call returned after its status."""
        status, *values = result
        if status != self._runtime.cudaError_t.cudaSuccess:
            text = self._runtime.cudaGetErrorString(status)[1].decode()
            raise DeviceError(f"CUDA: {text}")
        return values[0] if values else None
