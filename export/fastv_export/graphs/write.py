"""The graphs of a plan: traced, rounded, lowered, written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import Family
from fastv_export.graphs.build import build_graph
from fastv_export.passes import (
    ScaledInputs,
    left_whole,
    quantize_activations,
    quantize_float_activations,
    quantize_weights,
    scale_inputs,
)
from fastv_export.progress import Progress
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.notes import whole_note
from fastv_export.quantization.rules import activation_of, method_of, quantization_of
from fastv_export.quantization.static_ranges import supports_one_range
from fastv_export.quantization.weights import Quantization
from fastv_export.targets import Dialect
from fastv_runtime.config.bundle import DecoderConfig, GraphSpec
from fastv_runtime.config.io_spec import IOSpec
from fastv_runtime.config.layouts import Vision
from fastv_runtime.config.plan import Plan


def write_graphs(
    declared: dict[str, IOSpec],
    dialect: Dialect,
    skeleton: Skeleton,
    family: Family,
    vision: Vision,
    plan: Plan,
    dimensions: DecoderConfig,
    activations: Mapping[str, Activation] | None,
    headroom: float,
    folder: Path,
    progress: Progress,
) -> tuple[dict[str, GraphSpec], dict[str, Quantization], list[ScaledInputs]]:
    """The graphs; the rounding of every weight that was rounded, by its name in the checkpoint; what was scaled."""
    graphs: dict[str, GraphSpec] = {}
    rounded: dict[str, Quantization] = {}
    scaled: list[ScaledInputs] = []
    for name, io_spec in declared.items():
        with progress.step(f"trace {name}"):
            model = build_graph(name, io_spec, skeleton, family, vision, plan)
        rounding = quantization_of(
            name, plan, dialect.name, layers=dimensions.num_hidden_layers, width=dimensions.hidden_size
        )
        if plan.weights is not None and activations is not None and name in plan.decoder_graphs:
            with progress.step(f"choose {'ranges' if plan.weights.floating else 'scales'} of {name}"):
                known, method = activation_of(name, plan, activations), method_of(plan, plan.weights, dialect.name)
                supports = (supports_one_range,) if plan.weights.static and not plan.weights.floating else ()
                scaled.append(scale_inputs(model, rounding, known, method, *supports))
                rounding = scaled[-1].quantization_of
        rounded |= quantize_weights(model, rounding)
        if whole := left_whole(model, rounding):
            progress.note(whole_note(name, whole, plan))
        if plan.weights is not None and plan.weights.static and name in plan.decoder_graphs and scaled:
            if plan.weights.floating:
                quantize_float_activations(model, scaled[-1].ranges, headroom)
            else:
                quantize_activations(model, scaled[-1].ranges)
        dialect.lower(model)
        with progress.weights(f"write {name}", _bytes(model)) as written:
            file = dialect.save(model, folder, name, written)
        graphs[name] = GraphSpec(
            file=file,
            dialect=dialect.name,
            opset=dialect.opset,
            tensorrt=dialect.tensorrt,
            inputs=io_spec[0],
            outputs=io_spec[1],
        )
    return graphs, rounded, scaled


def _bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
