"""Scores without rotary embedding, of every family: queries and keys observed before it, against transformers' own
attention with an embedding that turns nothing.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import FAMILIES
from fastv_export.graphs.build import build_graph
from fastv_export.graphs.save import save_graph
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.targets import TRT_LEGACY
from fastv_export.tracing import attention, tower_attention
from fastv_export.tracing.pre_rope import before_rotary, check_projections
from fastv_export.verify.reference import load_model, pruned
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.errors import UserError
from tests.export.tensorrt_operators import violations
from tests.families.row import Row
from tests.families.test_families import LENGTHS
from tests.families.test_trt_legacy import FAMILY_ROWS
from tests.timm_alone import import_timm

LAYER, LENGTH = 2, 21
PRUNABLE = torch.arange(LENGTH) % 3 > 0


@pytest.mark.parametrize("row", FAMILY_ROWS, ids=lambda row: row.model_type)
def test_scores_are_those_of_attention_that_turns_nothing(row: Row, tmp_path: Path) -> None:
    if row.model_type == "fast_vlm":
        import_timm()
    row.write(tmp_path / "checkpoint")
    family = FAMILIES[row.model_type]
    decoder = family.decoder(load_model(tmp_path / "checkpoint", family))
    scored = decoder.layers[LAYER - 1].self_attn
    check_projections(scored, "pre-rope", row.model_type)
    arguments = {"inputs_embeds": _embedded(decoder)}
    with torch.no_grad(), before_rotary(scored) as found, pruned(decoder, LAYER, PRUNABLE, 15) as rotated:
        decoder(**arguments)
    with torch.no_grad(), pruned(decoder, LAYER, PRUNABLE, 15, rotary=False) as still:
        decoder(**arguments)
    torch.testing.assert_close(found.scores()[0], still.scores)
    assert (rotated.scores - still.scores).abs().max() > 1e-3
    assert not [name for name, each in scored.named_modules() if each._forward_hooks]


def test_a_graph_with_norms_and_deepstack_computes_them(tmp_path: Path) -> None:
    """Qwen3-VL: a norm on each head of queries and keys, positions of three axes. As traced, and for TensorRT 10.3."""
    row = next(row for row in FAMILY_ROWS if row.model_type == "qwen3_vl")
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    attention.register()
    tower_attention.register()
    config = family.config(checkpoint)
    dimensions, vision = decoder_dimensions(config, family), family.vision(config, row.options.get("image_tokens"))
    options = Options(**{"layer": LAYER, **LENGTHS, **row.options}, ranker="pre-rope")
    plan = make_plan(options, dimensions, vision, None)
    io_spec = io_specs(dimensions, vision, None, plan, "float32")["prefix"]
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    model = build_graph("prefix", io_spec, skeleton, family, vision, plan)
    save_graph(model, tmp_path / "canonical.onnx")
    TRT_LEGACY.lower(model)
    save_graph(model, tmp_path / "legacy.onnx")
    assert set(violations(onnx.load(tmp_path / "legacy.onnx", load_external_data=False))) == set()

    decoder = family.decoder(load_model(tmp_path / "checkpoint", family))
    embedded = _embedded(decoder)
    positions = torch.arange(LENGTH).expand(3, 1, LENGTH) + torch.tensor([0, 3, 5])[:, None, None]
    with torch.no_grad(), pruned(decoder, LAYER, PRUNABLE, 15, rotary=False) as still:
        decoder(inputs_embeds=embedded, position_ids=positions)
    feeds = {
        tensor.name: np.zeros([LENGTH if axis == "S" else int(axis) for axis in tensor.shape], tensor.dtype)
        for tensor in io_spec[0]
    }
    feeds |= {"hidden": embedded.numpy(), "position_ids": positions.numpy()}
    for form in ("canonical", "legacy"):
        session = onnxruntime.InferenceSession(tmp_path / f"{form}.onnx")
        (scores,) = session.run(["scores"], {key: value.copy() for key, value in feeds.items()})
        np.testing.assert_allclose(scores[0], still.scores.numpy(), rtol=1e-4, atol=1e-6)


def test_a_family_with_one_projection_for_all_is_refused() -> None:
    fused = SimpleNamespace(qkv_proj=nn.Linear(4, 12))
    with pytest.raises(UserError, match="`ranker` pre-rope: family some projects queries and keys in one linear layer"):
        check_projections(fused, "pre-rope", "some")


def _embedded(decoder: nn.Module) -> torch.Tensor:
    width = decoder.embed_tokens.embedding_dim
    return torch.randn(1, LENGTH, width, generator=torch.Generator().manual_seed(0))
