"""ONNX Runtime on one device: sessions, CUDA graphs, and how many batches may run at once."""
