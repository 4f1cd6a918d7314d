"""Inputs and outputs of every graph: export names them, the manifest records them, the runtime binds them.

Batch is 1. Symbols: S rows of the prompt (1 when decoding), M rows kept. Caches have their full capacity as shape.
"""

from __future__ import annotations

from fastv_runtime.bundle import Decoder, DType, Plan, TensorSpec, Vision
from fastv_runtime.lengths import capacity

Contract = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs of one graph, in order."""


def contracts(decoder: Decoder, vision: Vision, plan: Plan, dtype: DType) -> dict[str, Contract]:
    """The graphs that a plan needs, by name, in the order in which they run. `dtype`: of weights and activations."""
    width, layers = decoder.hidden_size, decoder.num_hidden_layers
    needed = capacity(plan, vision.tokens)

    def layer_graph(symbol: str, first: int, stop: int, keys: int, outputs: tuple[TensorSpec, ...]) -> Contract:
        cache = (1, decoder.num_key_value_heads, keys, decoder.head_dim)

        def caches(prefix: str) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(name=f"{prefix}_{kind}_{layer}", dtype=dtype, shape=cache)
                for layer in range(first, stop)
                for kind in ("key", "value")
            )

        inputs = (
            TensorSpec(name="hidden", dtype=dtype, shape=(1, symbol, width)),
            TensorSpec(name="position_ids", dtype="int64", shape=(1, symbol)),
            TensorSpec(name="write_index", dtype="int64", shape=(1,)),
        )
        return (*inputs, *caches("past")), (*outputs, *caches("present"))

    graphs: dict[str, Contract] = {
        "vision": (
            (
                TensorSpec(
                    name="pixel_values",
                    dtype="float32",
                    shape=(1, 3, vision.image_height, vision.image_width),
                ),
            ),
            (TensorSpec(name="image_features", dtype=dtype, shape=(vision.tokens, width)),),
        )
    }
    logits = (TensorSpec(name="logits", dtype="float32", shape=(1, 1, decoder.vocab_size)),)
    if plan.layer is None:
        graphs["decoder"] = layer_graph("S", 0, layers, needed.prefix_cache, logits)
        return graphs
    graphs["prefix"] = layer_graph(
        "S",
        0,
        plan.layer,
        needed.prefix_cache,
        (
            TensorSpec(name="hidden_out", dtype=dtype, shape=(1, "S", width)),
            TensorSpec(name="scores", dtype="float32", shape=(1, "S")),
        ),
    )
    graphs["select"] = (
        (
            TensorSpec(name="hidden", dtype=dtype, shape=(1, "S", width)),
            TensorSpec(name="scores", dtype="float32", shape=(1, "S")),
            TensorSpec(name="position_ids", dtype="int64", shape=(1, "S")),
            TensorSpec(name="prunable", dtype="bool", shape=(1, "S")),
            TensorSpec(name="length", dtype="int64", shape=(1,)),
        ),
        (
            TensorSpec(name="pruned_hidden", dtype=dtype, shape=(1, "M", width)),
            TensorSpec(name="pruned_position_ids", dtype="int64", shape=(1, "M")),
            TensorSpec(name="keep", dtype="int64", shape=(1, "M")),
        ),
    )
    graphs["suffix"] = layer_graph("M", plan.layer, layers, needed.suffix_cache, logits)
    return graphs
