"""A scale for each input of a product, so that rounding its weights costs less: AWQ and SmoothQuant.

x W = (x / s)(s W): what divides the inputs moves into whatever makes them (`passes.scale_inputs`), and s W is what is
rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import torch
from jaxtyping import Float

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.weights import Quantization

Scale = Float[torch.Tensor, " I"]
Group = Sequence[tuple[CheckpointTensor, Quantization]]
"""Weights [inputs, outputs] that share their input, laid out for MatMul."""
Tie = Callable[[Scale], Scale]
"""Makes inputs equal that can only be scaled together."""
Method = Callable[[Group, Activation, Tie], "Scale | None"]
"""Chooses a scale of geometric mean 1; None where none does as well."""

STEPS = 10
"""Of alpha, from 0 to 1."""
BLOCK = 1 << 20
"""Bytes of a stored weight that are tried at once: what caches hold."""
OUTPUTS = 512
"""Outputs of a weight that are tried, spread over all of them: the error is a mean over so many."""
WORTH = 1e-3
"""Share of the error that a scale must save."""
LARGEST = 256.0
"""Of a scale, either way: fp16 must still hold what is divided by it, and a channel never used asks for more."""


def activation_aware(group: Group, activation: Activation, tie: Tie) -> Scale | None:
    """mean|x|^alpha, for the alpha whose rounding errs least in the outputs; None if that is 0.

    With d = Q(s W) / s - W the mean square error of an output is Var[x_i] d_i^2 summed over inputs plus (E[x] d)^2, if
    inputs vary independently of each other. (Without the second term, on the demo, one choice in five was worse than
    none on the rows themselves; with it none was.) The weights are read once for all alphas. AWQ: arXiv
    2306.00978, section 3.2.
    """
    sizes = tie(activation.mean_abs)
    if not torch.equal(sizes, activation.mean_abs):
        # Heads that share values: one scale for all of them makes an output's error less and the model's more (on
        # SmolLM2-135M KL 0.082 instead of 0.077). AWQ's authors leave these out as well.
        return None
    scales = [_power(sizes, step / STEPS) for step in range(STEPS + 1)]
    errors = torch.zeros(len(scales), dtype=torch.float64)
    variance = (activation.mean_square - activation.mean.square()).clamp_min(0)
    for weight, rounding in group:
        for _, rows in weight.rows(BLOCK, most=OUTPUTS):
            exact = rows.float()
            for index, scale in enumerate(scales):
                error = rounding.scaled(scale).rounded(exact, weight.torch_dtype).sub_(exact)
                errors[index] += (error @ activation.mean).square().sum() + (error.square_() @ variance).sum()
    best = int(errors.argmin())
    return scales[best] if errors[best] < (1 - WORTH) * errors[0] else None


def smoothing(group: Group, activation: Activation, tie: Tie) -> Scale:
    """(max|x| / max|W|)^0.5, for activations that are rounded as well. SmoothQuant: arXiv 2211.10438, equation 4."""
    largest = torch.zeros_like(activation.max_abs)
    for weight, _ in group:
        for _, rows in weight.rows(BLOCK):
            largest = torch.maximum(largest, rows.abs().amax(0).float())
    return _power(tie(activation.max_abs) / tie(largest).clamp_min(1e-4 * float(largest.max())), 0.5)


def unscaled(group: Group, activation: Activation, tie: Tie) -> None:
    """No scale, for floating-point values: they are as exact for small inputs as for large ones."""


def _power(sizes: Scale, alpha: float) -> Scale:
    logs = sizes.clamp_min(1e-9 * float(sizes.max())).log() * alpha
    return (logs - logs.mean()).clamp(-log(LARGEST), log(LARGEST)).exp()
