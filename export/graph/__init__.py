"""The ONNX graphs of artifacts: exported, cleaned, in other precisions, held against the reference."""
