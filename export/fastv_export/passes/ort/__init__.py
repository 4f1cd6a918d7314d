"""Canonical form to ONNX Runtime's own operators."""
