"""From transformers' layers to canonical ONNX graphs."""
