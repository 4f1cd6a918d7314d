"""The graphs of a plan, built in canonical form."""

from __future__ import annotations

import onnx_ir as ir

from fastv_export import hf
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import Family
from fastv_export.graphs.pack import build_pack
from fastv_export.graphs.select import build_select
from fastv_export.rankers import RANKERS
from fastv_export.tracing.parts import DecoderPart, VisionPart
from fastv_export.tracing.trace import OPSET, graph_inputs, name_outputs, trace_decoder, trace_vision
from fastv_runtime.config.io_spec import IOSpec
from fastv_runtime.config.layouts import Vision
from fastv_runtime.config.plan import Plan


def build_graph(name: str, io_spec: IOSpec, skeleton: Skeleton, family: Family, vision: Vision, plan: Plan) -> ir.Model:
    """One graph of a plan by its name, in the canonical form."""
    if name == "vision":
        part = VisionPart(skeleton.model, family.encode, [tensor.name for tensor in io_spec[0]])
        return trace_vision(skeleton, part, io_spec, vision.axes())
    if name == "video":
        part = VisionPart(skeleton.model, family.encode_frame, [tensor.name for tensor in io_spec[0]])
        return trace_vision(skeleton, part, io_spec, {})
    if name == "pack":
        newline = family.newline(skeleton.model)
        pack = build_pack(graph_inputs(io_spec[0]), OPSET, skeleton.weight("newline", newline))
        name_outputs(pack, io_spec[1])
        return pack
    if name in plan.selects:
        ranker = plan.cuts[plan.selects.index(name)].ranker
        select = build_select(graph_inputs(io_spec[0]), OPSET, ranker, [tensor.name for tensor in io_spec[1]])
        name_outputs(select, io_spec[1])
        return select
    decoder, head = family.decoder(skeleton.model), family.head(skeleton.model)
    of_graph, cut = plan.layers(name, len(hf.layers_of(decoder))), plan.stage(name).cut
    if cut is None:
        layers = DecoderPart(decoder, of_graph.start, of_graph.stop, head=head)
    else:
        rotary = RANKERS[cut.ranker].rotary
        layers = DecoderPart(decoder, of_graph.start, of_graph.stop, signals=cut.signals, rotary=rotary)
    return trace_decoder(skeleton, layers, io_spec)
