"""Weights and activations of few bits in canonical form."""
