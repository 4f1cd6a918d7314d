"""Which products can be given eight bits in one calibrated range for all rows, as static int8 is.

A pretrained model has a few tokens whose states are thousands of times larger than the others'. A range that holds them
has steps that ordinary rows disappear between; no scale for each input helps, where all of a row is large. On
SmolLM2-135M, its inputs scaled, the worst `down` has an error as below of 2.2, and nine of thirty have more than 1/8;
the median product has 0.03. Perplexity is 32% above that of fp32 with a range everywhere, 5% with one up to 1/8,
1.5% up to 1/16, 0.3% with weights alone in eight bits (docs/benchmarks/static_int8.md).
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from fastv_export.quantization.activations import Activation

HEAD = "head."
LARGEST = 127
LIMIT = 1 / 16
"""Of `step_error`."""


def supports_one_range(
    name: str, activation: Activation, scale: Float[Tensor, " I"] | None, *, limit: float = LIMIT
) -> bool:
    """For `scale_inputs`: whether what a product is given, divided by `scale`, is rounded in one range.

    name: of its weight in the graph. The head never is: it multiplies one row, and that waits for its weights.
    """
    return not name.startswith(HEAD) and step_error(activation, scale) <= limit


def step_error(activation: Activation, scale: Float[Tensor, " I"] | None) -> float:
    """Root mean square error of an ordinary row rounded in the range of all, relative to the row's own size."""
    largest, squares = activation.max_abs, activation.typical_square
    if scale is not None:
        largest, squares = largest / scale, squares / scale.square()
    return float(largest.max()) / LARGEST / math.sqrt(12) / math.sqrt(float(squares.mean()))
