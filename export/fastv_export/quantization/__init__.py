"""Weights and activations of few bits: formats, scales, and which layers get what."""
