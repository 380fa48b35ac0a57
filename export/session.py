"""The one way in which `export` opens a graph on the CPU: as the server does."""

from pathlib import Path

import onnxruntime

from artifact.golden import CPU_PROVIDER


def on_cpu(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file with ONNX Runtime's CPU provider.

    Args:
        threads: of one run; None takes as many as the machine has cores.

    Raises:
        Exception: ONNX Runtime's own, when the file is not usable.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # fatal only: what goes wrong is raised
    # A spinning thread burns the core that another one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, sums of 8-bit products saturate at 16 bits, unless the weights are made unsigned. Digits
    # that int8 kept within 0.07 of fp32 were 0.66 off, and 4 % of them another digit.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])
