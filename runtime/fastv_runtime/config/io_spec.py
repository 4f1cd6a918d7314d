"""Inputs and outputs of every graph: export names them, the manifest records them, the runtime binds them.

Batch is 1. Symbols: S rows of the prompt (1 when decoding), M rows kept, N visual tokens, R features before they are
packed; a layout's own axes are in `fastv_runtime.config.layouts`. Caches have their full capacity as shape.
"""

from __future__ import annotations

from fastv_runtime.config.base import DType, TensorSpec
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.manifest import DecoderConfig
from fastv_runtime.config.plan import Plan

IOSpec = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs of one graph, in order."""


def io_specs(
    decoder: DecoderConfig, vision: Vision, video: VideoLayout | None, plan: Plan, dtype: DType
) -> dict[str, IOSpec]:
    """The graphs that a plan needs, by name, in the order in which they run. `dtype`: of weights and activations."""
    return vision_io_specs(decoder, vision, video, dtype) | decoder_io_specs(decoder, plan, dtype)


def vision_io_specs(
    decoder: DecoderConfig, vision: Vision, video: VideoLayout | None, dtype: DType
) -> dict[str, IOSpec]:
    """`vision`, and where the model has them `pack` and `video` (a tower of its own)."""
    width = decoder.hidden_size

    def features(name: str, rows: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=(rows, width))

    rows = vision.feature_rows
    deepstack = tuple(features(f"deepstack_{index}", rows) for index in range(decoder.deepstack_layers))
    graphs: dict[str, IOSpec] = {"vision": (vision.inputs(), (features("image_features", rows), *deepstack))}
    if vision.packing:
        weight = TensorSpec(name="weight", dtype="float32", shape=("N", vision.packing))
        graphs["pack"] = (
            (
                features("features", "R"),
                TensorSpec(name="index", dtype="int64", shape=("N", vision.packing)),
                *((weight,) if vision.packing > 1 else ()),
            ),
            (features("image_features", "N"),),
        )
    if video is not None and video.graph == "video":
        graphs["video"] = (video.image.inputs(), (features("image_features", video.tokens_per_frame),))
    return graphs


def decoder_io_specs(decoder: DecoderConfig, plan: Plan, dtype: DType) -> dict[str, IOSpec]:
    """`prefix`, `select` and `suffix`; or `decoder`, unsplit."""
    width = decoder.hidden_size
    needed = capacity(plan)

    def positions(name: str, symbol: str) -> TensorSpec:
        axes = () if decoder.position_axes == 1 else (decoder.position_axes,)
        return TensorSpec(name=name, dtype="int64", shape=(*axes, 1, symbol))

    def deepstack(prefix: str, symbol: str, added: range) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=f"{prefix}{layer}", dtype=dtype, shape=(1, symbol, width)) for layer in added)

    def layer_graph(graph: str, symbol: str, keys: int, added: range, outputs: tuple[TensorSpec, ...]) -> IOSpec:
        cache = (1, decoder.num_key_value_heads, keys, decoder.head_dim)

        def caches(prefix: str) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(name=f"{prefix}_{kind}_{layer}", dtype=dtype, shape=cache)
                for layer in plan.layers(graph, decoder.num_hidden_layers)
                for kind in ("key", "value")
            )

        inputs = (
            TensorSpec(name="hidden", dtype=dtype, shape=(1, symbol, width)),
            positions("position_ids", symbol),
            TensorSpec(name="write_index", dtype="int64", shape=(1,)),
            *deepstack("deepstack_", symbol, added),
        )
        return (*inputs, *caches("past")), (*outputs, *caches("present"))

    graphs: dict[str, IOSpec] = {}
    logits = (
        TensorSpec(name="logits", dtype="float32", shape=(1, 1, decoder.vocab_size)),
        TensorSpec(name="token", dtype="int64", shape=(1, 1)),
    )
    if not plan.prunes:
        graphs["decoder"] = layer_graph("decoder", "S", needed.prefix_cache, range(decoder.deepstack_layers), logits)
        return graphs
    # The scored layer ends in the suffix, so what is added after it is added there.
    early = range(min(plan.scored_layer, decoder.deepstack_layers))
    late = range(plan.scored_layer, decoder.deepstack_layers)
    graphs["prefix"] = layer_graph(
        "prefix",
        "S",
        needed.prefix_cache,
        early,
        (
            TensorSpec(name="hidden_out", dtype=dtype, shape=(1, "S", width)),
            TensorSpec(name="scores", dtype="float32", shape=(1, "S")),
        ),
    )
    graphs["select"] = (
        (
            TensorSpec(name="hidden", dtype=dtype, shape=(1, "S", width)),
            TensorSpec(name="scores", dtype="float32", shape=(1, "S")),
            positions("position_ids", "S"),
            TensorSpec(name="prunable", dtype="bool", shape=(1, "S")),
            TensorSpec(name="length", dtype="int64", shape=(1,)),
            *deepstack("deepstack_", "S", late),
        ),
        (
            TensorSpec(name="pruned_hidden", dtype=dtype, shape=(1, "M", width)),
            positions("pruned_position_ids", "M"),
            TensorSpec(name="keep", dtype="int64", shape=(1, "M")),
            *deepstack("pruned_deepstack_", "M", late),
        ),
    )
    graphs["suffix"] = layer_graph("suffix", "M", needed.suffix_cache, late, logits)
    return graphs
