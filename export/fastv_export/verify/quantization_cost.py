"""What quantization costs: how far what a bundle computes is from the stock model with its weights as they are stored.

Verification leaves that out on purpose: it compares with weights that are rounded equally, so that any difference is a
mistake. This is the other question, and a user's: what became of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from fastv_export.quantization.presets import PRECISIONS, PROCESSORS
from fastv_export.verify.end_to_end import EndToEnd
from fastv_runtime.config.bundle import QuantizationCost
from fastv_runtime.config.plan import DialectName, Plan
from fastv_runtime.config.wording import cost_of
from fastv_runtime.verification.comparison import difference

UNROUNDED = {precision: name for name, precision in PRECISIONS.items()}

BEARABLE = 0.15
"""Nats: some 16% more perplexity on what the stock model itself would say. Measured with 49 tokens: on SmolLM2-135M
int8 by row costs 0.022 (43 tokens the same), int8 in blocks 0.011 (48), int4 plainly rounded 0.74 (27) in blocks of 64
and 0.48 (30) of 32, where few answers agree; on the demo int4 costs 0.046 (45) and answers as many questions. Tokens
alone tell less: where two words are as likely as each other, one takes the other's place at 0.01."""


def quantization_cost(chain: EndToEnd, stock: Any) -> QuantizationCost:
    """Of a question that has been through a bundle as it computes (`EndToEnd`, not exact).

    stock: the whole model, in fp32, its weights not rounded.
    """
    ours, theirs = chain.logits(stock)
    return QuantizationCost(
        asked=len(theirs),
        same=int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
        kl=float(np.mean([divergence(one, other) for one, other in zip(theirs, ours, strict=True)])),
        logits=difference(ours[None], theirs[None]),
    )


def warning(cost: QuantizationCost, plan: Plan, dialect: DialectName, *, calibrated: bool) -> str | None:
    """What to say where rounding costs more than is bearable, and what to try; None elsewhere.

    calibrated: whether the user gave what products are given.
    """
    weights = plan.weights
    if weights is None or cost.kl <= BEARABLE:  # a NaN is none that is bearable
        return None
    # TensorRT's int8 would be no better for a calibration: that rounds activations too.
    integers = not weights.floating
    tries = [] if calibrated or (weights.bits == 8 and dialect not in PROCESSORS and integers) else ["`calibration`"]
    if weights.block is not None and weights.block > 32:  # never nvfp4's
        tries.append("`block` 32")
    if weights.block is None and dialect in PROCESSORS:
        tries.append("`block` 64")
    wider = "int8" if integers else "fp8"
    tries.append(f"`precision` {wider if weights.bits == 4 else UNROUNDED[plan.precision]}")
    if weights.static and integers:
        tries.append("leave out `calibration`, by which activations are quantized")
    return f"warning: quantization changes what this model says: {cost_of(cost)}, above {BEARABLE}: try {_or(tries)}"


def _or(tries: list[str]) -> str:
    *others, last = tries
    return f"{', '.join(others)} or {last}" if others else last


def divergence(logits: Float[np.ndarray, " V"], other: Float[np.ndarray, " V"]) -> float:
    """Kullback-Leibler divergence, in nats, of what `other` says is likely from what `logits` says."""
    wanted, found = _log_softmax(logits), _log_softmax(other)
    return float((np.exp(wanted) * (wanted - found)).sum())


def _log_softmax(logits: Float[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    shifted: np.ndarray = logits.astype(np.float64) - logits.max()
    likelihoods: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return likelihoods
