"""What may be asked for at most: beyond these no model, machine or number type can follow.

Commands refuse what lies outside while they parse; the API refuses it where it takes it. Imports nothing.
"""

from __future__ import annotations

THREADS = 1024
"""Of one operator."""
TOKENS = 1_000_000
"""Of a prompt's text, of its visual tokens, or of an answer."""
IMAGES = 1000
FRAMES = 10_000
"""Of one video."""
LAYERS = 1000
TOP_K = 10_000_000
"""More than any vocabulary has."""
SEED = 2**64 - 1
ROUNDS = 100_000
WORKERS = 10_000
GIB = 100_000
MILLISECONDS = 1_000_000_000

COOLEST, HOTTEST = 0.0001, 10_000
"""Temperatures other than 0: cooler ones leave no room for logits in a float, hotter ones nothing of them."""
SMALLEST_PENALTY, LARGEST_PENALTY = 0.01, 100
"""Of repetition; 1 is none."""
