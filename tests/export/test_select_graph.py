"""The select graph against the definition, ties and all."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastv_export.graphs.select import build_select
from fastv_export.rankers import RANKERS
from fastv_export.tracing.trace import graph_inputs, name_outputs
from fastv_export.verify.reference import select
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cuts import TEXT_ROWS, Cut
from fastv_runtime.config.io_spec import decoder_io_specs
from tests.plans import at_capacity
from tests.runtime.test_lengths import make_plan

WIDTH = 4


@cache
def session(ranker: str) -> Any:
    decoder = DecoderConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=4,
        vocab_size=8,
        gated_mlp=True,
    )
    cut = Cut(layer=2, keep=0.5, ranker=ranker, signals=RANKERS[ranker].signals, rotary=RANKERS[ranker].rotary)
    plan = make_plan().model_copy(update={"cuts": (cut,)})
    inputs, outputs = decoder_io_specs(decoder, plan, "float32")["select"]
    model = build_select(graph_inputs(inputs), 24, ranker, [tensor.name for tensor in outputs])
    name_outputs(model, outputs)
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())


def run(ranker: str, scores: np.ndarray, prunable: np.ndarray, length: int) -> dict[str, np.ndarray]:
    count = scores.size
    hidden = np.arange(count * WIDTH, dtype=np.float32).reshape(1, count, WIDTH)
    scores = scores[None].astype(np.float32)
    signals = {
        "scores": scores,
        "earlier_scores": scores[:, ::-1],
        "head_scores": scores[:, None],
        "row_scores": np.repeat(scores[:, None], TEXT_ROWS, axis=1),
        "key_norms": scores,
        "change": scores,
    }
    feeds = {
        "hidden": hidden,
        **{name: signals[name] for name in RANKERS[ranker].signals},
        "position_ids": 10 + np.arange(count)[None],
        "prunable": prunable[None],
        "length": np.asarray([length]),
    }
    names = ["pruned_hidden", "pruned_position_ids", "keep"]
    return dict(zip(names, session(ranker).run(names, at_capacity(feeds, session(ranker))), strict=True))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    count = draw(st.integers(1, 40))
    # Few distinct scores: ties everywhere.
    scores = np.asarray(
        draw(st.lists(st.sampled_from([0.0, 0.1, 0.1000001, 0.5, 1.0]), min_size=count, max_size=count))
    )
    prunable = np.asarray(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    length = draw(st.integers(max(1, count - int(prunable.sum())), count))
    return scores, prunable, length


@given(cases())
def test_kept_rows_are_those_of_the_definition(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    scores, prunable, length = case
    outputs = run("fastv", scores, prunable, length)
    expected = select(torch.tensor(scores, dtype=torch.float32), torch.tensor(prunable), length).numpy()
    np.testing.assert_array_equal(outputs["keep"][0], expected)
    np.testing.assert_array_equal(outputs["pruned_position_ids"][0], 10 + expected)
    np.testing.assert_array_equal(outputs["pruned_hidden"][0, :, 0], WIDTH * expected)


@pytest.mark.parametrize("ranker", RANKERS)
@given(case=cases())
def test_every_ranker_keeps_what_is_not_prunable(ranker: str, case: tuple[np.ndarray, np.ndarray, int]) -> None:
    scores, prunable, length = case
    keep = run(ranker, scores, prunable, length)["keep"][0]
    assert len(keep) == length
    assert (np.diff(keep) > 0).all()
    assert set(np.flatnonzero(~prunable)) <= set(keep.tolist())


def test_random_repeats_itself_differs_between_prompts_and_favours_nothing() -> None:
    generator = np.random.default_rng(0)
    prunable = np.ones(100, bool)
    counts = np.zeros(100)
    prompts = generator.random((300, 100)) / 50
    for scores in prompts:
        keep = run("random", scores, prunable, 25)["keep"][0]
        counts[keep] += 1
        # The same prompt's other scores may be anything: nothing but its first one seeds the noise.
        other = np.concatenate([scores[:1], generator.permutation(scores[1:])])
        np.testing.assert_array_equal(run("random", other, prunable, 25)["keep"][0], keep)
    expected, deviation = 75, (300 * 0.25 * 0.75) ** 0.5
    assert abs(counts - expected).max() < 5 * deviation
