"""What exports of a test run share: traces of one structure, and of no other."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import FAMILIES
from fastv_export.tracing import attention
from fastv_export.tracing.parts import DecoderPart, VisionPart
from fastv_runtime.config.cuts import Signal
from tests import traces
from tests.tiny import write_tiny_llava

ROWS = torch.export.Dim("rows", min=1, max=64)


def part(source: Path, layer: int = 2, signals: tuple[Signal, ...] = ("scores",)) -> nn.Module:
    """The prefix; or the tower, for layer 0."""
    attention.register()
    family = FAMILIES["llava"]
    skeleton = Skeleton(Checkpoint(source), family, attention=attention.IMPLEMENTATION)
    if layer == 0:
        return VisionPart(skeleton.model, family.encode, ["pixel_values"])
    return DecoderPart(family.decoder(skeleton.model), 0, layer, signals=signals)


def test_a_trace_is_of_its_structure_alone(tiny_llava: Path, tmp_path: Path) -> None:
    def digest(module: nn.Module, rows: int = 7, most: int = 64, axis: int = 1) -> str:
        example = (torch.zeros(1, rows, 64), [torch.zeros(2, 3)])
        return traces.digest(module, example, ({axis: torch.export.Dim("rows", min=1, max=most)}, None))

    own = digest(part(tiny_llava))
    elsewhere = write_tiny_llava(tmp_path / "values", seed=1)
    assert digest(part(elsewhere)) == own
    assert digest(part(elsewhere, layer=0)) == digest(part(tiny_llava, layer=0)) != own
    others = [
        digest(part(tiny_llava), rows=8),
        digest(part(tiny_llava), most=65),
        digest(part(tiny_llava), axis=0),
        digest(part(tiny_llava, layer=3)),
        digest(part(tiny_llava, signals=())),
        digest(part(write_tiny_llava(tmp_path / "norm", rms_norm_eps=1e-3))),
        digest(part(write_tiny_llava(tmp_path / "theta", rope_parameters={"rope_type": "default", "rope_theta": 5e5}))),
        digest(part(write_tiny_llava(tmp_path / "heads", num_key_value_heads=4))),
    ]
    assert len({own, *others}) == 1 + len(others)


def test_a_graph_is_read_back_as_it_was_traced(tmp_path: Path) -> None:
    traced = []

    def trace(module: nn.Module, example: tuple[torch.Tensor], dynamic_shapes: object) -> ir.Model:
        program = torch.export.export(module, example, dynamic_shapes=dynamic_shapes)
        exported = torch.onnx.export(program, dynamo=True, opset_version=24, optimize=False, verbose=False)
        assert exported is not None
        traced.append(exported.model)
        return exported.model

    module, example = nn.Linear(3, 2).eval(), (torch.zeros(4, 3),)
    shared = traces.shared(trace, tmp_path)
    graphs = [shared(module, example, ({0: ROWS},)).graph for _ in range(2)]
    assert len(traced) == 1
    for graph in graphs:
        assert [node.op_type for node in graph] == [node.op_type for node in traced[0].graph]
        assert [value.shape for value in graph.inputs] == [value.shape for value in traced[0].graph.inputs]
        assert list(graph.initializers) == ["weight", "bias"]
        with pytest.raises(FileNotFoundError):  # what is not put in afterwards is missed
            graph.initializers["weight"].const_value.numpy()  # type: ignore[union-attr]
