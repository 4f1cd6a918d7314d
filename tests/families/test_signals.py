"""What rankers read, of every family: as graphs compute it, against transformers' own attention weights and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import FAMILIES
from fastv_export.graphs.build import build_graph
from fastv_export.graphs.save import save_graph
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.targets import TRT_LEGACY
from fastv_export.tracing import attention, tower_attention
from fastv_export.verify.reference import ReferenceCut, load_model, pruned_by, select
from fastv_runtime.config.cuts import ATTENTION_SIGNALS, TEXT_ROWS, Cut, Signal
from fastv_runtime.config.io_spec import io_specs
from tests.export.tensorrt_operators import violations
from tests.families.conftest import CheckpointOf
from tests.families.row import Row
from tests.families.test_families import LENGTHS
from tests.families.test_trt_legacy import FAMILY_ROWS
from tests.timm_alone import import_timm

LENGTH = 21
PRUNABLE = torch.arange(LENGTH) % 3 > 0
COMPUTED: tuple[Signal, ...] = ("scores", "earlier_scores", "head_scores", "row_scores", "key_norms")
DEEP = "qwen3_vl"
"""Grouped queries, a norm on each head, positions of three axes, deepstack, and layers enough for two cuts."""


@pytest.mark.parametrize("row", FAMILY_ROWS, ids=lambda row: row.model_type)
def test_graphs_compute_what_transformers_attention_has(row: Row, checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    """Of the prefix, and where a decoder has layers enough of the stage after it: of the rows that are left there."""
    if row.model_type == "fast_vlm":
        import_timm()
    checkpoint, family = Checkpoint(checkpoint_of(row)), FAMILIES[row.model_type]
    attention.register()
    tower_attention.register()
    config = family.config(checkpoint)
    dimensions, vision = decoder_dimensions(config, family), family.vision(config, row.options.get("image_tokens"))
    layers = (2, 4) if row.model_type == DEEP else (2,)
    cuts = tuple(Cut(layer=each, keep=1 / each, ranker="fastv", signals=COMPUTED) for each in layers)
    plan = make_plan(Options(**{**LENGTHS, **row.options, "layer": 2}), dimensions, vision, None)
    plan = plan.model_copy(update={"cuts": cuts})
    specs = io_specs(dimensions, vision, None, plan, "float32")
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)

    decoder = family.decoder(load_model(checkpoint.path, family))
    generator = torch.Generator().manual_seed(0)
    embedded = torch.randn(1, LENGTH, decoder.embed_tokens.embedding_dim, generator=generator)
    positions = torch.arange(LENGTH)[None]
    if dimensions.position_axes == 3:
        positions = torch.arange(LENGTH).expand(3, 1, LENGTH) + torch.tensor([0, 3, 5])[:, None, None]
    # The second leaves fewer rows than `row_scores` has, so that the first stands for what is missing.
    reference = [ReferenceCut(each, LENGTH - 6 * each, COMPUTED) for each in layers]
    prunable = PRUNABLE if len(layers) == 1 else torch.arange(LENGTH) % 4 > 0
    with torch.no_grad(), pruned_by(decoder, prunable, reference) as prunings:
        decoder(inputs_embeds=embedded, position_ids=positions)
    rows, states = torch.arange(LENGTH), embedded
    for graph, pruning in zip(plan.decoder_graphs, prunings, strict=False):
        model = build_graph(graph, specs[graph], skeleton, family, vision, plan)
        save_graph(model, tmp_path / f"{graph}.onnx")
        TRT_LEGACY.lower(model)
        save_graph(model, tmp_path / f"{graph}-legacy.onnx")
        assert set(violations(onnx.load(tmp_path / f"{graph}-legacy.onnx", load_external_data=False))) == set()
        symbol = plan.stage(graph).symbol
        feeds = {
            tensor.name: np.zeros([len(rows) if axis == symbol else int(axis) for axis in tensor.shape], tensor.dtype)
            for tensor in specs[graph][0]
        }
        feeds |= {"hidden": states.numpy(), "position_ids": positions[..., rows].numpy()}
        for form in (graph, f"{graph}-legacy"):
            session = onnxruntime.InferenceSession(tmp_path / f"{form}.onnx")
            made = session.run(list(COMPUTED), {name: each.copy() for name, each in feeds.items()})
            for name, value in zip(COMPUTED, made, strict=True):
                expected = pruning.signals[name].numpy()
                there = value[0][..., : len(rows)]
                assert there.shape == expected.shape
                np.testing.assert_allclose(there, expected, rtol=1e-3, atol=1e-5, err_msg=f"{form} {name}")
                assert not value[0][..., len(rows) :].any()
            resumed = _last_rows_alone(session, feeds, len(rows))
            for name in ATTENTION_SIGNALS:
                expected = pruning.signals[name].numpy()
                there = resumed[name][0][..., : len(rows)]
                np.testing.assert_allclose(there, expected, rtol=1e-3, atol=1e-5, err_msg=f"{form} {name}")
        rows = pruning.keep
        states = pruning.hidden[:, rows]


def _last_rows_alone(session: Any, feeds: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """What a graph makes of the last TEXT_ROWS rows, when its caches have the others from a run before."""
    begun = max(0, rows - TEXT_ROWS)
    names = [each.name for each in session.get_outputs()]

    def run(start: int, stop: int, caches: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: each.copy() for name, each in (feeds | caches).items()}
        given |= {name: each[:, start:stop] for name, each in given.items() if name.startswith(("hidden", "deepstack"))}
        given["position_ids"] = given["position_ids"][..., start:stop]
        given["write_index"] = np.asarray([start])
        return dict(zip(names, session.run(names, given), strict=True))

    first = run(0, begun, {}) if begun else {}
    pasts = {name.replace("present", "past"): each for name, each in first.items() if name.startswith("present")}
    return run(begun, rows, pasts)


def test_signals_are_what_is_said_of_them() -> None:
    """By hand, of three rows: the last row, its heads, and rows that may not look ahead."""
    from fastv_export.verify.signals import attention_signals, key_signals

    weights = torch.tensor([[[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]], [[1, 0, 0], [0, 1, 0], [0.75, 0.25, 0]]])
    found = attention_signals(weights, torch.arange(3))
    torch.testing.assert_close(found["scores"], torch.tensor([0.5, 0.25, 0.25]))
    torch.testing.assert_close(found["head_scores"], weights[:, 2])
    by_rows = torch.tensor([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]])
    torch.testing.assert_close(found["row_scores"][-3:], by_rows)
    torch.testing.assert_close(found["row_scores"][:-3], by_rows[:1].expand(TEXT_ROWS - 3, 3))
    keys = torch.tensor([[[3.0, 4], [0, 0]], [[0, 1], [0, 2]]])
    torch.testing.assert_close(key_signals(keys, torch.arange(2))["key_norms"], torch.tensor([3.0, 1]))
    assert select(found["scores"], torch.ones(3, dtype=torch.bool), 2).tolist() == [0, 1]
