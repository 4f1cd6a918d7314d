"""TensorRT and TensorRT-RTX: engines run, and found again for the GPU at hand."""
