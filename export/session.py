"""The one way in which `export` opens a graph on the CPU: as the server does."""

from pathlib import Path

import onnxruntime

from artifact.golden import CPU_PROVIDER

_FOLDING_BYTES = 64 << 20  # of a constant that is computed while loading: few bytes of graph can ask for many


def options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """Return the options of every session.

    Args:
        threads: of one run; None takes as many as the machine has cores.
    """
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads or 0
    chosen.log_severity_level = 4  # fatal only: what goes wrong is raised
    # A spinning thread burns the core that another one needs.
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, sums of 8-bit products saturate at 16 bits, unless the weights are made unsigned. Digits
    # that int8 kept within 0.07 of fp32 were 0.66 off, and 4 % of them another digit.
    chosen.add_session_config_entry("session.x64quantprecision", "1")
    chosen.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(_FOLDING_BYTES)
    )
    return chosen


def on_cpu(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file with ONNX Runtime's CPU provider.

    Args:
        threads: of one run; None takes as many as the machine has cores.

    Raises:
        Exception: ONNX Runtime's own, when the file is not usable.
    """
    return onnxruntime.InferenceSession(path, options(threads), providers=[CPU_PROVIDER])
