"""A rule of thumb for the cut of a decoder of which nothing is known but its depth."""

from __future__ import annotations

DEPTH = 1 / 6
"""Of the decoder's layers, those that see all visual tokens."""
KEEP = 0.4
"""As much work, in visual rows x layers, as FastV's K=2 and keep 0.5."""
MOST = 0.5
"""The bound that `keep` is where a share says how many tokens stay."""


def rule_layer(layers: int) -> int:
    """K of a decoder of so many layers."""
    return max(1, round(DEPTH * layers))
