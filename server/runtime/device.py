"""Which device runs the networks, found out by running a network on it.

ONNX Runtime falls back to the CPU without an exception when CUDA does not work. Here a session is
opened so that it cannot, and the answer decides: asked-for devices that do not work stop the start,
`auto` takes the CPU and says so.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime

from artifact import execution
from artifact.golden import CPU_PROVIDER, CUDA_PROVIDER
from server.errors import StartError
from server.runtime.concurrency import Occupancy

# A convolution of 4 x 4 pixels: cuDNN is loaded only when the first convolution runs, so a session that
# merely opens proves nothing. tests/server/runtime/test_device.py builds it anew and compares.
_PROBE = Path(__file__).with_name("probe.onnx")


@dataclass(frozen=True)
class Device:
    """A device that runs networks.

    Attributes:
        name: ``cpu`` or ``cuda:0``.
        ordinal: the CUDA device's number; None for the CPU.
        threads: threads of one run on the CPU, at most.
        occupancy: by the runs of all models.
    """

    name: str
    ordinal: int | None
    threads: int
    occupancy: Occupancy = field(default_factory=Occupancy, compare=False, repr=False)

    @property
    def provider(self) -> str:
        """Return ONNX Runtime's name of the execution provider."""
        return CPU_PROVIDER if self.ordinal is None else CUDA_PROVIDER

    def suited(self, macs: float) -> "Device":
        """Return the device as it runs a network best: a tiny one on one thread.

        Args:
            macs: multiply-adds of one image; 0 where they are not known.
        """
        return replace(self, threads=execution.threads(macs, self.threads))


@dataclass(frozen=True)
class Choice:
    """The device that was chosen.

    Attributes:
        fallback_reason: why it is not the CUDA device that `auto` tried first; empty where it is.
    """

    device: Device
    fallback_reason: str = ""


def choose(requested: str, threads: int) -> Choice:
    """Find a device that works.

    Args:
        requested: ``auto``, ``cpu`` or ``cuda:<ordinal>``.
        threads: threads of one run, where the CPU is chosen.

    Raises:
        StartError: ``requested`` names a device that does not work.
    """
    # Its own stream knows no format and no level of ours.
    onnxruntime.set_default_logger_severity(execution.LOG_SEVERITY_FATAL)
    if requested == "cpu":
        return Choice(_proved(Device("cpu", None, threads)))
    name = "cuda:0" if requested == "auto" else requested
    try:
        return Choice(_proved(Device(name, int(name.removeprefix("cuda:")), 1)))
    except StartError as error:
        if requested != "auto":
            raise
        return Choice(_proved(Device("cpu", None, threads)), fallback_reason=str(error))


def open_session(
    path: Path, device: Device, cuda_options: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Open an ONNX file on a device, there or nowhere.

    Args:
        cuda_options: more options of the CUDA provider.

    Raises:
        Exception: ONNX Runtime's own, when the file or the device is not usable.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.log_severity_level = execution.LOG_SEVERITY_FATAL
    cuda = device.ordinal is not None
    chosen = {**execution.SESSION_OPTIONS, **(execution.CUDA_SESSION_OPTIONS if cuda else {})}
    for key, value in chosen.items():
        options.add_session_config_entry(key, value)
    providers: list[str | tuple[str, dict[str, str]]] = [CPU_PROVIDER]
    if device.ordinal is not None:
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their wheels, where they are installed
        providers = [
            (
                CUDA_PROVIDER,
                {
                    "device_id": str(device.ordinal),
                    "arena_extend_strategy": "kSameAsRequested",
                    **execution.CUDA_PROVIDER_OPTIONS,
                    **(cuda_options or {}),
                },
            )
        ]
    session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    session.disable_fallback()  # else one failed run would silently rebuild the session on the CPU
    if session.get_providers()[0] != device.provider:
        raise RuntimeError(
            f"ONNX Runtime opened the session on {session.get_providers()}, not {device.provider}"
        )
    return session


def _proved(device: Device) -> Device:
    """Run a convolution; what the first session costs is also paid here, and by no model.

    Raises:
        StartError: it did not run.
    """
    try:
        session = open_session(_PROBE, device)
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, 4, 4), np.float32)})
    except Exception as error:
        reason = (_missing_library() if device.ordinal is not None else "") or str(error).strip()
        raise StartError(f"device {device.name} does not work: {reason}") from error
    return device


def _missing_library() -> str:
    """Return which shared library keeps the CUDA provider from loading; empty where none does.

    ONNX Runtime itself says only that there was no provider.
    """
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(provider))
    except OSError as error:
        return str(error) if "cannot open shared object" in str(error) else ""
    return ""
