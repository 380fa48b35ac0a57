"""Measured comparisons, each a command that prints a table."""

import os

# ONNX Runtime reports usage data unless it is told not to before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
