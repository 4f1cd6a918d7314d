"""Which shapes an engine must support: optimisation profiles, from the io_spec and the plan. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastv_runtime.config.bundle import GraphSpec, Manifest
from fastv_runtime.config.layouts import AnyresVision, PatchesVideo, PatchesVision, PooledVideo
from fastv_runtime.config.lengths import capacity
from fastv_runtime.errors import UserError

TOPK_LIMIT = 3840
"""Largest k of TensorRT's TopK (operator support page of its ONNX parser)."""

VALUES = ("length",)
"""Inputs that are shapes themselves: a profile holds the values that they may have, not their shape."""


@dataclass(frozen=True)
class Range:
    """Of one dynamic axis; the engine is tuned for `opt`."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Shapes:
    """Of one input; for those in VALUES its values."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


Profile = dict[str, Shapes]
"""By input."""


def graph_profiles(name: str, manifest: Manifest, *, shared_weights: bool) -> list[Profile]:
    """The profiles of one graph.

    Decoder graphs prefill many rows and decode one. Where profiles share their weights (TensorRT) decoding has the
    second profile, tuned for its one row; where each profile has its own (TensorRT-RTX) one profile serves both.
    """
    spec = manifest.graphs[name]
    ranges = axis_ranges(name, manifest)
    profiles = [_profile(name, spec, ranges, manifest)]
    if shared_weights and any(tensor.name == "write_index" for tensor in spec.inputs):
        profiles.append(_profile(name, spec, {symbol: Range(1, 1, 1) for symbol in ranges}, manifest))
    return profiles


def axis_ranges(name: str, manifest: Manifest) -> dict[str, Range]:
    """Every dynamic axis of a graph's inputs, by its symbol. The largest is what the plan supports, and tuned for.

    A stage's one range serves every pruned length, fixed or exact, and a `keep` of one prompt.
    """
    needed = capacity(manifest.plan)
    for stage, rows in zip(manifest.plan.stages, needed.rows, strict=True):
        if name == stage.graph or (stage.cut is not None and name == manifest.plan.selects[stage.index]):
            return {stage.symbol: _up_to(rows)}
    if name == "pack":
        features, tokens = _packed(manifest)
        return {"R": Range(_side(manifest) ** 2, features, features), "N": _up_to(tokens)}
    if name == "vision" and isinstance(manifest.vision, PatchesVision):
        return _patches(manifest, manifest.vision)
    return {}


def _profile(name: str, spec: GraphSpec, ranges: dict[str, Range], manifest: Manifest) -> Profile:
    def shape(axes: tuple[int | str, ...], bound: str) -> tuple[int, ...]:
        return tuple(getattr(ranges[axis], bound) if isinstance(axis, str) else axis for axis in axes)

    profile = {
        tensor.name: Shapes(shape(tensor.shape, "min"), shape(tensor.shape, "opt"), shape(tensor.shape, "max"))
        for tensor in spec.inputs
    }
    if "length" in profile:
        longest = capacity(manifest.plan).rows[1 + manifest.plan.selects.index(name)]
        if longest > TOPK_LIMIT:
            raise UserError(
                f"the pruned prompt may have {longest} tokens and TensorRT selects at most {TOPK_LIMIT}: "
                "export with a smaller `export.keep`, `export.max_visual`, `export.max_images` or `export.image_tokens`"
            )
        profile["length"] = Shapes((1,), (longest,), (longest,))
    return profile


def _up_to(most: int) -> Range:
    return Range(1, most, most)


def _patches(manifest: Manifest, vision: PatchesVision) -> dict[str, Range]:
    """Axes of a tower that takes any size. `vision.axes()`: N visual tokens, P patches, W windows."""
    tokens = vision.tokens
    if isinstance(manifest.video, PatchesVideo):
        tokens = max(tokens, manifest.video.image.tokens)
    tokens = min(tokens, manifest.plan.max_visual)
    ranges = {symbol: Range(each, each * tokens, each * tokens) for symbol, each in vision.axes().items() if each}
    if vision.window:
        # Most windows has an image that is one token high, and a square is what to expect.
        square = math.ceil(math.isqrt(tokens) / vision.window) ** 2
        most = math.ceil(tokens / vision.window)
        ranges["W"] = Range(1, max(1, min(square, most)), most)
    return ranges


def _packed(manifest: Manifest) -> tuple[int, int]:
    """Most features that `pack` takes, and most tokens that it makes: of an image's tiles or a video's frames."""
    vision, most = manifest.vision, manifest.plan.max_visual
    assert isinstance(vision, AnyresVision)
    tiles = max((height // vision.tile) * (width // vision.tile) for height, width in vision.pinpoints)
    features, tokens = (1 + tiles) * vision.side**2, min(vision.tokens, most)
    if isinstance(manifest.video, PooledVideo):
        # One newline token ends a video.
        frames = max(most - 1, 0) // manifest.video.pooled**2
        features = max(features, frames * manifest.video.side**2)
        tokens = max(tokens, frames * manifest.video.pooled**2 + 1)
    return features, tokens


def _side(manifest: Manifest) -> int:
    assert isinstance(manifest.vision, AnyresVision)
    return manifest.vision.side
