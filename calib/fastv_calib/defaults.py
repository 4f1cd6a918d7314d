"""What a calibration measures where nothing is said: shown by the command's help, so nothing heavy is imported."""

from __future__ import annotations

KEEPS = (0.5, 0.25, 0.1)
RANKERS = ("fastv", "coverage", "text-rows", "random")
"""The paper's, the two that held best on a pretrained decoder (docs/benchmarks/accuracy.md), and the control."""
PRECISIONS = ("fp32",)
ANSWER_TOKENS = 16
MIN_AGREEMENT = 0.99
MAX_NEW_TOKENS = 256
