"""What each target's graphs are made of: the passes that lower them, their opset, the precisions they support."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from fastv_export.graphs.openvino_ir import save_ir
from fastv_export.graphs.save import save_onnx
from fastv_export.passes import (
    declare_opset,
    drop_scatter_reduction,
    fold_row_reshapes,
    join_projections,
    lower_argsort,
    lower_patch_convolutions,
    lower_to_dynamic_int8,
    lower_to_group_query_attention,
    lower_to_growing_cache,
    lower_to_matmul_nbits,
    lower_to_multi_head_attention,
    lower_to_plain_attention,
    lower_to_rms_norm,
    lower_to_rotary_embedding,
    lower_to_stored_weights,
    lower_to_where,
)
from fastv_export.quantization.presets import PRECISIONS
from fastv_export.tracing.trace import OPSET
from fastv_runtime.backends.openvino.graphs import load_openvino
from fastv_runtime.config.plan import DialectName, Precision
from fastv_runtime.errors import UserError

MOST_PICKED = 3840
"""Largest k of TensorRT's TopK (ITopKLayer::setK)."""


@dataclass(frozen=True)
class Dialect:
    """One operator set. `lower` rewrites a canonical graph in place; its graphs need TensorRT `tensorrt` or newer."""

    name: DialectName
    opset: int
    lower: Callable[[ir.Model], None]
    precisions: tuple[Precision, ...]
    """The first is the default."""
    tensorrt: str | None = None
    heads: range = range(1, sys.maxsize)
    """How many channels a head may have."""
    save: Callable[[ir.Model, Path, str, Callable[[int], None]], str] = save_onnx
    """Writes a lowered graph into a bundle's folder by its name, calling with the bytes of each weight; returns its
    file there."""
    require: Callable[[], object] = object
    """Raises UserError where what writes its graphs is not installed."""
    most_picked: int | None = None
    """Most values that its TopK picks, and so the longest pruned prompt; None if any number."""


def _lower_to_ort(model: ir.Model) -> None:
    lower_patch_convolutions(model)
    lower_to_rotary_embedding(model)
    lower_to_group_query_attention(model)
    fold_row_reshapes(model)
    lower_to_rms_norm(model)
    lower_to_multi_head_attention(model)
    lower_to_dynamic_int8(model)
    lower_to_matmul_nbits(model)
    declare_opset(model, ORT.opset)


def _lower_to_openvino(model: ir.Model) -> None:
    lower_patch_convolutions(model)
    lower_to_growing_cache(model)
    lower_to_stored_weights(model)
    join_projections(model)


def _lower_to_trt(model: ir.Model) -> None:
    lower_argsort(model)  # Attention and TensorScatter of the canonical form are TensorRT's own layers


def _lower_to_trt_legacy(model: ir.Model) -> None:
    lower_argsort(model)
    drop_scatter_reduction(model)
    lower_to_plain_attention(model)
    lower_to_where(model)
    declare_opset(model, TRT_LEGACY.opset)


ORT = Dialect(
    name="ort",
    opset=23,  # the newest that ONNX Runtime 1.23 loads, the last release for Python 3.10 (JetPack 6)
    lower=_lower_to_ort,
    precisions=("float32", "float16"),
    heads=range(8, sys.maxsize, 8),  # GroupQueryAttention: "head_size must be a multiple of 8", when it runs
)
OPENVINO = Dialect(
    name="openvino",
    opset=OPSET,
    lower=_lower_to_openvino,
    precisions=("float16", "float32"),
    save=save_ir,
    require=load_openvino,
)
TRT = Dialect(
    name="trt",
    opset=OPSET,
    lower=_lower_to_trt,
    precisions=("float16", "bfloat16"),
    tensorrt="10.15",
    heads=range(16, 257, 8),  # by trial: TensorRT-RTX 1.7 builds no attention of other heads
    most_picked=MOST_PICKED,
)
TRT_LEGACY = Dialect(
    name="trt-legacy",
    opset=20,  # the newest that the parser of TensorRT 10.3 takes (JetPack 6.2)
    lower=_lower_to_trt_legacy,
    precisions=("float16", "float32"),
    tensorrt="10.3",
    most_picked=MOST_PICKED,
)

TARGETS: dict[str, Dialect] = {"ort": ORT, "openvino": OPENVINO, "trt": TRT, "trt-rtx": TRT, "trt-legacy": TRT_LEGACY}
"""Dialects by the targets of `fastv-export`."""


def choose_precision(target: str, precision: Precision | None) -> Precision:
    """The precision of a target's graphs; None means its default. UserError for one that it cannot compute in."""
    supports = TARGETS[target].precisions
    if precision is None:
        return supports[0]
    if precision not in supports:
        names = {value: name for name, value in PRECISIONS.items()}
        known = " or ".join(names[each] for each in supports)
        raise UserError(f"`precision` {names[precision]}: target {target} computes in {known}: use one of them")
    return precision
