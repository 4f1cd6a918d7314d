"""A CUDA device and a TensorRT that exist on the host alone, so that the code for them runs without a GPU."""
