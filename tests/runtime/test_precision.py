"""What is said of a bundle's weights and activations."""

from __future__ import annotations

import pytest

from fastv_runtime.config.bundle import QuantizationCost
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.plan import DialectName, Part, Plan, Precision, Weights
from fastv_runtime.config.wording import cost_of, precision_of

WIDE: tuple[Part, ...] = ("vision", "prefix", "head")


@pytest.mark.parametrize(
    ("weights", "precision", "dialect", "words"),
    [
        (None, "float32", "ort", "float32"),
        (None, "bfloat16", "trt", "bfloat16"),
        (Weights(bits=8, block=None), "float32", "ort", "int8 weights, int8 activations by row"),
        (Weights(bits=8, block=None), "float16", "ort", "int8 weights, float16 activations"),
        (Weights(bits=8, block=64), "float32", "ort", "int8 weights in blocks of 64, int8 activations by block"),
        (Weights(bits=8, block=64), "float16", "ort", "int8 weights in blocks of 64, int8 activations by block"),
        (
            Weights(bits=4, block=64, wide=WIDE),
            "float32",
            "ort",
            "int4 weights in blocks of 64 (vision, prefix, head: int8), int8 activations by block",
        ),
        (Weights(bits=4, block=32), "float16", "trt", "int4 weights in blocks of 32, float16 activations"),
        (Weights(bits=8, block=None), "float16", "trt", "int8 weights, float16 activations"),
        (Weights(bits=8, block=None), "float32", "trt-legacy", "int8 weights, float32 activations"),
        (
            Weights(bits=8, block=None, static=True),
            "float16",
            "trt",
            "int8 weights, int8 activations in calibrated ranges (vision: float16)",
        ),
    ],
)
def test_words(weights: Weights | None, precision: Precision, dialect: DialectName, words: str) -> None:
    plan = Plan(
        cuts=one_cut(2, 0.5),
        length="exact",
        precision=precision,
        weights=weights,
        max_text=128,
        max_visual=144,
        max_new_tokens=8,
    )
    assert precision_of(plan, dialect) == words


def test_what_rounding_costs_in_words() -> None:
    assert (
        cost_of(QuantizationCost(asked=49, same=43, kl=0.02254, logits=0.09))
        == "43 of 49 tokens as unquantized, KL 0.023"
    )
