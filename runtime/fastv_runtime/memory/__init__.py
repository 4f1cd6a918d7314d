"""Buffers that graphs read and write: where they are, and which tensor of which graph is which buffer."""
