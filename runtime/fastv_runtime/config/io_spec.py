"""Inputs and outputs of every graph: export names them, the manifest records them, the runtime binds them.

Batch is 1. Symbols: S rows of the prompt (1 when decoding), M rows kept, M_2 after a second cut, N visual tokens, R
features before they are packed; a layout's own axes are in `fastv_runtime.config.layouts`. Caches have their full
capacity as shape.
"""

from __future__ import annotations

from fastv_runtime.config.base import DType, TensorSpec
from fastv_runtime.config.cuts import ATTENTION_SIGNALS, TEXT_ROWS, Cut, Signal
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.manifest import DecoderConfig
from fastv_runtime.config.plan import Plan, Stage

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
    """`prefix`, `select`, for every further cut `middle` and `select_2` and so on, `suffix`; or `decoder`, unsplit."""
    stages, needed = plan.stages, capacity(plan)
    graphs: dict[str, IOSpec] = {}
    for stage in stages:
        if stage.select is not None:
            graphs[stage.select] = _select(decoder, plan, stage, needed.keys[stage.index - 1], dtype)
        graphs[stage.graph] = _layers(decoder, plan, stage, needed.keys[stage.index], dtype)
    return graphs


def _layers(decoder: DecoderConfig, plan: Plan, stage: Stage, keys: int, dtype: DType) -> IOSpec:
    """A graph of decoder layers. keys: that each layer's cache has room for."""
    width, symbol = decoder.hidden_size, stage.symbol
    cache = (1, decoder.num_key_value_heads, keys, decoder.head_dim)

    def caches(prefix: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=f"{prefix}_{kind}_{layer}", dtype=dtype, shape=cache)
            for layer in plan.layers(stage.graph, decoder.num_hidden_layers)
            for kind in ("key", "value")
        )

    inputs = (
        TensorSpec(name="hidden", dtype=dtype, shape=(1, symbol, width)),
        _positions(decoder, "position_ids", symbol),
        TensorSpec(name="write_index", dtype="int64", shape=(1,)),
        *_deepstack(decoder, "deepstack_", symbol, dtype, deepstack_of(decoder, stage)),
    )
    outputs: tuple[TensorSpec, ...]
    if stage.cut is None:
        outputs = (
            TensorSpec(name="logits", dtype="float32", shape=(1, 1, decoder.vocab_size)),
            TensorSpec(name="token", dtype="int64", shape=(1, 1)),
        )
    else:
        outputs = (
            TensorSpec(name="hidden_out", dtype=dtype, shape=(1, symbol, width)),
            *_computed_signals(decoder, stage.cut, symbol, keys),
        )
    return (*inputs, *caches("past")), (*outputs, *caches("present"))


def _select(decoder: DecoderConfig, plan: Plan, stage: Stage, keys: int, dtype: DType) -> IOSpec:
    """The graph that picks the rows of a stage from those of the stage before, whose caches have room for `keys`."""
    before, width = plan.stages[stage.index - 1], decoder.hidden_size
    assert before.cut is not None
    rows, left = before.symbol, stage.symbol
    late = range(deepstack_of(decoder, stage).start, decoder.deepstack_layers)
    inputs = (
        TensorSpec(name="hidden", dtype=dtype, shape=(1, rows, width)),
        *_computed_signals(decoder, before.cut, rows, keys),
        _positions(decoder, "position_ids", rows),
        TensorSpec(name="prunable", dtype="bool", shape=(1, rows)),
        TensorSpec(name="length", dtype="int64", shape=(1,)),
        *((_signal(decoder, "change", rows),) if carries_change(plan, before.index) else ()),
        *_deepstack(decoder, "deepstack_", rows, dtype, late),
    )
    outputs = (
        TensorSpec(name="pruned_hidden", dtype=dtype, shape=(1, left, width)),
        _positions(decoder, "pruned_position_ids", left),
        TensorSpec(name="keep", dtype="int64", shape=(1, left)),
        # What only a later cut asks for.
        *((TensorSpec(name="pruned_prunable", dtype="bool", shape=(1, left)),) if stage.cut is not None else ()),
        *((_signal(decoder, "change", left, "pruned_"),) if carries_change(plan, stage.index) else ()),
        *_deepstack(decoder, "pruned_deepstack_", left, dtype, late),
    )
    return inputs, outputs


def computed(cut: Cut) -> tuple[Signal, ...]:
    """What the graph before a cut gives its ranker, in order."""
    return tuple(name for name in cut.signals if name != "change")


def carries_change(plan: Plan, index: int) -> bool:
    """Whether a cut reads `change`, of those at the end of stage `index` and of later ones."""
    return any("change" in cut.signals for cut in plan.cuts[index:])


def deepstack_of(decoder: DecoderConfig, stage: Stage) -> range:
    """Layers after which a stage adds visual features. A scored layer ends behind its cut: so does what is added."""
    start = max(stage.start - 1, 0)
    stop = decoder.num_hidden_layers if stage.stop is None else stage.stop - 1
    return range(min(start, decoder.deepstack_layers), min(stop, decoder.deepstack_layers))


def _positions(decoder: DecoderConfig, name: str, symbol: str) -> TensorSpec:
    axes = () if decoder.position_axes == 1 else (decoder.position_axes,)
    return TensorSpec(name=name, dtype="int64", shape=(*axes, 1, symbol))


def _deepstack(decoder: DecoderConfig, prefix: str, symbol: str, dtype: DType, added: range) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=f"{prefix}{layer}", dtype=dtype, shape=(1, symbol, decoder.hidden_size)) for layer in added
    )


def _computed_signals(decoder: DecoderConfig, cut: Cut, symbol: str, keys: int) -> tuple[TensorSpec, ...]:
    """What the graph before a cut gives its ranker: of its rows, or of all keys that its caches have room for."""
    return tuple(
        _signal(decoder, name, keys if cut.rotary and name in ATTENTION_SIGNALS else symbol) for name in computed(cut)
    )


def _signal(decoder: DecoderConfig, name: Signal, rows: int | str, prefix: str = "") -> TensorSpec:
    inner = {"head_scores": (decoder.num_attention_heads,), "row_scores": (TEXT_ROWS,)}.get(name, ())
    return TensorSpec(name=prefix + name, dtype="float32", shape=(1, *inner, rows))
