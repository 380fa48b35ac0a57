"""The one way in which `export` opens a graph on the CPU: with the options that the server has."""

from pathlib import Path

import onnxruntime

from artifact import execution
from artifact.golden import CPU_PROVIDER


def options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """Return the options of every session.

    Args:
        threads: of one run; None takes as many as this process may use cores.
    """
    onnxruntime.set_default_logger_severity(execution.LOG_SEVERITY_FATAL)  # its allocator's errors go there
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads or execution.core_count()
    chosen.log_severity_level = execution.LOG_SEVERITY_FATAL
    for key, value in execution.SESSION_OPTIONS.items():
        chosen.add_session_config_entry(key, value)
    return chosen


def on_cpu(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file with ONNX Runtime's CPU provider.

    Args:
        threads: of one run; None takes as many as this process may use cores.

    Raises:
        Exception: ONNX Runtime's own, when the file is not usable.
    """
    return onnxruntime.InferenceSession(path, options(threads), providers=[CPU_PROVIDER])
