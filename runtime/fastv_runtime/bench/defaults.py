"""What fastv-bench measures unless told otherwise. Imports nothing: the command's help names them."""

from __future__ import annotations

ROUNDS, WARMUP = 15, 2
"""Nine tenths of fifteen repeats are more than a single outlier can move; the first runs of a graph allocate."""
NEW_TOKENS = 16
"""Of each answer, or what all runners support."""
