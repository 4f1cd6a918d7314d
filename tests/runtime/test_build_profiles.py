"""Profiles bear every shape that the runtime binds: of each layout, and of prefill and decoding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastv_runtime.config.bundle import (
    EMBEDDING,
    SCHEMA_VERSION,
    DecoderConfig,
    FileDigest,
    GraphSpec,
    Manifest,
    Tokens,
)
from fastv_runtime.config.cuts import Cut, one_cut
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.config.layouts import (
    AnyresVision,
    FixedVision,
    FramesVideo,
    PatchesVideo,
    PatchesVision,
    PooledVideo,
    VideoLayout,
    Vision,
)
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan
from fastv_runtime.config.tile_layouts import TilesVision, TileText
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.anyres import pack_index
from fastv_runtime.preprocessing.images.grid import grid_inputs
from fastv_runtime.preprocessing.videos.pooled import pool_index
from fastv_runtime.tensorrt_build.profiles import Shapes, axis_ranges, graph_profiles

DECODER = DecoderConfig(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=300,
    gated_mlp=True,
)
PLAN = Plan(
    cuts=one_cut(2, 0.5),
    length="exact",
    precision="float16",
    max_text=64,
    max_visual=144,
    max_new_tokens=32,
)
CHAIN = (*one_cut(1, 0.5), *one_cut(3, 0.25))
FIXED = FixedVision(image_height=96, image_width=96, rows=12, columns=12)
ANYRES = AnyresVision(tile=32, side=4, pinpoints=((32, 64), (64, 32), (64, 64), (96, 32)), max_tiles=2)
PATCHES = PatchesVision(channels=3, patch=4, frames_per_patch=2, merge=2, max_tokens=60, window=4, position_side=8)
TILES = TilesVision(tile=32, side=4, max_tiles=5, settings={}, text=TileText())
POOLED = PooledVideo(frames=4, tile=32, side=4)


def manifest(
    vision: Vision, video: VideoLayout | None = None, decoder: DecoderConfig = DECODER, **plan: Any
) -> Manifest:
    chosen = PLAN.model_copy(update=plan)
    graphs = {
        name: GraphSpec(file=f"onnx/{name}.onnx", dialect="trt", opset=24, inputs=inputs, outputs=outputs)
        for name, (inputs, outputs) in io_specs(decoder, vision, video, chosen, chosen.precision).items()
    }
    digest = FileDigest(sha256="0" * 64, size=1)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        family="llava",
        decoder=decoder,
        vision=vision,
        video=video,
        plan=chosen,
        tokens=Tokens(image=1, stop=(2,)),
        graphs=graphs,
        embedding_dtype="float16",
        files={EMBEDDING: digest} | {spec.file: digest for spec in graphs.values()},
        source={},
        versions={},
        verified=None,
    )


def supports(name: str, made: Manifest, **lengths: int) -> None:
    """Every symbol of a graph's inputs is in `lengths`, and within the profile."""
    ranges = axis_ranges(name, made)
    assert set(ranges) == set(lengths)
    for symbol, length in lengths.items():
        assert ranges[symbol].min <= length <= ranges[symbol].max, symbol


@pytest.mark.parametrize(
    ("vision", "video"),
    [
        (FIXED, None),
        (FIXED, FramesVideo(graph="video", frames=8, image=FIXED, tokens_per_frame=145)),
        (ANYRES, None),
        (ANYRES, POOLED),
        (PATCHES, PatchesVideo(frames=4, image=PATCHES)),
        (TILES, None),
    ],
    ids=["fixed", "frames", "anyres", "pooled", "patches", "tiles"],
)
@pytest.mark.parametrize("cuts", [one_cut(2, 0.5), one_cut(None, 1.0), CHAIN], ids=["one cut", "unpruned", "two cuts"])
def test_every_input_of_every_graph_has_ordered_shapes(
    vision: Vision, video: VideoLayout | None, cuts: tuple[Cut, ...]
) -> None:
    made = manifest(vision, video, cuts=cuts)
    for name, spec in made.graphs.items():
        for profile in graph_profiles(name, made, shared_weights=True):
            assert list(profile) == [tensor.name for tensor in spec.inputs]
            for tensor in spec.inputs:
                shapes = profile[tensor.name]
                assert all(1 <= low <= opt <= high for low, opt, high in zip(*dataclasses.astuple(shapes), strict=True))
                if tensor.name != "length":
                    static = [(axis, size) for axis, size in zip(tensor.shape, shapes.max, strict=True)]
                    assert all(axis == size for axis, size in static if isinstance(axis, int))


def test_decoding_has_a_profile_of_its_own_only_where_weights_are_shared() -> None:
    made = manifest(FIXED)
    needed = capacity(made.plan)
    (suffix,) = graph_profiles("suffix", made, shared_weights=False)
    assert suffix["hidden"] == Shapes((1, 1, 64), (1, needed.pruned, 64), (1, needed.pruned, 64))
    assert suffix["past_key_2"].min == suffix["past_key_2"].max == (1, 2, needed.keys[-1], 16)
    prefill, decode = graph_profiles("prefix", made, shared_weights=True)
    assert prefill["hidden"].max == (1, needed.prompt, 64)
    assert decode["hidden"] == Shapes((1, 1, 64), (1, 1, 64), (1, 1, 64))
    assert decode["position_ids"].max == (1, 1)
    for name in ("vision", "select"):
        assert len(graph_profiles(name, made, shared_weights=True)) == 1


def test_positions_of_three_axes_and_deepstack_follow_the_rows() -> None:
    decoder = DECODER.model_copy(update={"position_axes": 3, "deepstack_layers": 3})
    made = manifest(PATCHES, decoder=decoder)
    (suffix,) = graph_profiles("suffix", made, shared_weights=False)
    rows = capacity(made.plan).pruned
    assert suffix["position_ids"].max == (3, 1, rows)
    assert suffix["deepstack_2"].max == (1, rows, 64)


def test_select_is_told_the_values_of_its_length() -> None:
    made = manifest(FIXED)
    (profile,) = graph_profiles("select", made, shared_weights=True)
    assert profile["length"] == Shapes((1,), (64 + 72,), (64 + 72,))


def test_a_selection_beyond_topk_is_refused() -> None:
    made = manifest(FIXED, max_visual=7600)
    with pytest.raises(UserError, match="may have 3864 tokens and TensorRT selects at most 3840: export"):
        graph_profiles("select", made, shared_weights=False)
    graph_profiles("prefix", made, shared_weights=False)


def test_every_stage_of_a_chain_has_its_own_rows() -> None:
    made = manifest(FIXED, cuts=CHAIN)
    rows = {"prefix": 64 + 144, "middle": 64 + 72, "suffix": 64 + 36}
    for name, most in rows.items():
        prefill, decode = graph_profiles(name, made, shared_weights=True)
        assert prefill["hidden"] == Shapes((1, 1, 64), (1, most, 64), (1, most, 64))
        assert decode["hidden"].max == (1, 1, 64)
    assert graph_profiles("middle", made, shared_weights=False)[0]["past_key_1"].max == (1, 2, 64 + 72 + 32, 16)
    # A select is given the rows before its cut, and told how many it leaves.
    for name, before, left in (("select", 64 + 144, 64 + 72), ("select_2", 64 + 72, 64 + 36)):
        (profile,) = graph_profiles(name, made, shared_weights=True)
        assert profile["hidden"].max == (1, before, 64) and profile["prunable"].max == (1, before)
        assert profile["length"] == Shapes((1,), (left,), (left,))


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), window=st.integers(1, 5))
def test_patches_and_windows_of_every_image_fit(rows: int, columns: int, window: int) -> None:
    vision = PATCHES.model_copy(update={"window": window})
    rows = min(rows, vision.max_tokens // columns) or 1
    inputs = grid_inputs(vision, (rows, min(columns, vision.max_tokens)))
    lengths = {
        str(axis): size
        for tensor in vision.inputs()
        if tensor.name in inputs
        for axis, size in zip(tensor.shape, inputs[tensor.name].shape, strict=True)
        if isinstance(axis, str)
    }
    supports("vision", manifest(vision), **lengths)


def test_a_video_may_take_more_patches_than_a_image_but_not_more_than_the_plan() -> None:
    larger = PATCHES.model_copy(update={"max_tokens": 100})
    made = manifest(PATCHES, PatchesVideo(frames=4, image=larger))
    assert axis_ranges("vision", made)["N"].max == 100
    made = manifest(PATCHES, PatchesVideo(frames=4, image=larger), max_visual=80)
    assert axis_ranges("vision", made)["P"].max == 80 * 4


@given(height=st.integers(8, 400), width=st.integers(8, 400))
def test_tiles_of_every_image_fit(height: int, width: int) -> None:
    index = pack_index(ANYRES, height, width).index
    # The newline is the row after the last feature; a sliver of an image has no rows of tiles to end.
    supports("pack", manifest(ANYRES), R=max(int(index.max()), ANYRES.side**2), N=len(index))


@pytest.mark.parametrize("frames", [1, 4, 35])
def test_frames_of_every_video_fit(frames: int) -> None:
    index = pool_index(POOLED, frames).index
    assert len(index) <= PLAN.max_visual
    supports("pack", manifest(ANYRES, POOLED), R=frames * 16, N=len(index))
    assert np.max(index) == frames * 16
