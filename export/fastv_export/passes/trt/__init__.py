"""Canonical form to what TensorRT's parser takes, TensorRT 10.3's (`trt-legacy`) included."""
