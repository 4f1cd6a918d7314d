"""Each of the newer rankers as the first and as the second of two cuts, of decoders that differ in kind.

An export compares every graph, and all of them from image to tokens, with transformers masked by the same choices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastv_export.families import FAMILIES
from fastv_export.hf.models import before_decoder
from fastv_export.plan import CutOption
from fastv_export.rankers import RANKERS
from fastv_export.verify.choices import choose
from fastv_export.verify.reference import ReferenceCut, load_model, pruned_by
from fastv_runtime import Pipeline
from fastv_runtime.config.bundle import END_TO_END, read_manifest
from tests.conftest import MakeBundle
from tests.families.conftest import CheckpointOf
from tests.families.row import Row, noise_video
from tests.families.rows.qwen_patches import ROWS
from tests.tiny import write_tiny_llava

QWEN3 = next(row for row in ROWS if row.model_type == "qwen3_vl")
"""M-RoPE, a norm on each head, deepstack; and videos."""
KINDS = {
    "llama": Row("llava", lambda path: write_tiny_llava(path, num_key_value_heads=4), cases=()),
    # More heads than `varied-heads` takes.
    "grouped": Row("llava", lambda path: write_tiny_llava(path, num_attention_heads=8), cases=(), name="llava-grouped"),
    "qwen3": QWEN3,
}
LENGTHS: dict[str, Any] = {"max_text": 128, "max_new_tokens": 8}
CHAINS = [
    ("llama", "rank-shift", "varied-heads"),
    ("llama", "knorm", "text-rows"),
    ("grouped", "varied-heads", "coverage"),
    ("grouped", "text-rows", "rank-shift"),
    ("qwen3", "coverage", "knorm"),
    ("qwen3", "frame-change", "frame-change"),
]
QUESTION = "Where is the red circle, and how many are there of them?"


def test_every_newer_ranker_is_first_and_second() -> None:
    newer = set(list(RANKERS)[6:])
    assert {first for _, first, _ in CHAINS} == {second for _, _, second in CHAINS} == newer


@pytest.mark.parametrize(("kind", "first", "second"), CHAINS)
def test_an_export_of_two_cuts_is_what_transformers_computes(
    kind: str, first: str, second: str, checkpoint_of: CheckpointOf, make_bundle: MakeBundle
) -> None:
    row = KINDS[kind]
    cuts = (CutOption(2, 0.5, first), CutOption(4, 0.2, second))
    verified = read_manifest(make_bundle(checkpoint_of(row), cuts=cuts, **LENGTHS, **row.options)).verified or {}
    assert {"prefix", "select", "middle", "select_2", "suffix", END_TO_END} <= set(verified)


def test_a_video_is_pruned_by_what_changed(checkpoint_of: CheckpointOf, make_bundle: MakeBundle) -> None:
    """The signal that the runtime gives, against cosines of the stock model's own embedded prompt, at two cuts."""
    cuts = (CutOption(2, 0.5, "frame-change"), CutOption(4, 0.2, "frame-change"))
    source = checkpoint_of(QWEN3)
    pipeline = Pipeline.load(make_bundle(source, cuts=cuts, **LENGTHS, **QWEN3.options), threads=1)
    video = noise_video(3, (40, 32), 6)
    answer = pipeline.generate(prompt=QUESTION, videos=[video], max_new_tokens=1)

    model = load_model(source, FAMILIES["qwen3_vl"])
    assert QWEN3.video_inputs is not None
    inputs = QWEN3.video_inputs(source, video, QUESTION)
    visual = inputs["input_ids"][0] == model.config.video_token_id
    embedded: list[torch.Tensor] = []
    decoder = model.get_decoder()
    handle = before_decoder(decoder, embedded.append)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    steps = embedded[0][0, visual].reshape(3, -1, embedded[0].shape[-1])  # two frames share a time step
    change = torch.zeros(visual.numel())
    change[visual] = torch.cat(
        [torch.ones(1, steps.shape[1]), 1 - torch.cosine_similarity(steps[1:], steps[:-1], dim=-1)]
    ).reshape(-1)
    assert change[visual].unique().numel() > steps.shape[1]

    text, count = int((~visual).sum()), int(visual.sum())
    reference = [_cut(layer, text + round(keep * count), change) for layer, keep in ((2, 0.5), (4, 0.2))]
    with torch.no_grad(), pruned_by(decoder, visual, reference) as prunings:
        model(**inputs)
    order = torch.cumsum(visual, 0) - 1
    for cut, pruning in zip(answer.cuts, prunings, strict=True):
        assert cut.kept_visual_tokens == order[pruning.keep[visual[pruning.keep]]].tolist()
    # The first cut leaves all of the first step, which nothing came before.
    assert answer.cuts[0].kept_visual_tokens[: steps.shape[1]] == list(range(steps.shape[1]))
    np.testing.assert_allclose(
        pipeline.decoder.arena["change"].leading((1, visual.numel())).array()[0], change.numpy(), atol=1e-4
    )


def _cut(layer: int, length: int, change: torch.Tensor) -> ReferenceCut:
    return ReferenceCut(
        layer,
        length,
        ("scores", "change"),
        choose=lambda seen: choose("frame-change", seen, length),
        change=change,
    )
