"""A bundle as a model of Triton Inference Server: its repository, and the Python backend's model that answers."""
