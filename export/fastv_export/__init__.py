"""The host side of FastV Edge: from a transformers checkpoint to a bundle of ONNX graphs."""
