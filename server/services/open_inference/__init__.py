"""The Open Inference Protocol (KServe V2), with the extensions of Triton that its clients use."""
