"""Canonical form to what OpenVINO's reader of ONNX makes stateful graphs and its fused kernels of."""
