"""Turns a row of the catalog, or an ONNX file, into an artifact that proves itself."""

import os

# ONNX Runtime reports usage data unless it is told not to before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
