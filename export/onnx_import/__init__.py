"""ONNX files of unknown origin, made into graphs as artifacts have them."""
