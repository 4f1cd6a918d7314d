"""The oracle itself: masked pruning of the stock model, against attention weights that transformers returns."""

from __future__ import annotations

from pathlib import Path

import torch

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model, pruned


def test_scores_and_kept_tokens_are_those_of_returned_attentions(tiny_llava: Path) -> None:
    decoder = load_model(tiny_llava, FAMILIES["llava"]).get_decoder()
    ids = torch.randint(200, (1, 30), generator=torch.Generator().manual_seed(0))
    prunable = torch.zeros(30, dtype=torch.bool)
    prunable[4:24] = True
    with torch.no_grad():
        plain = decoder(input_ids=ids, output_attentions=True, output_hidden_states=True)
        with pruned(decoder, 2, prunable, 20) as pruning:
            masked = decoder(input_ids=ids, output_attentions=True)
    scores = plain.attentions[1][0, :, -1, :].mean(0)
    torch.testing.assert_close(pruning.scores, scores)
    best = set(scores[4:24].topk(10).indices.add(4).tolist())
    assert set(pruning.keep.tolist()) == best | set(range(4)) | set(range(24, 30))
    # What the rest of layer 1 makes of these states is the input of layer 2.
    scored = decoder.layers[1]
    with torch.no_grad():
        rest = pruning.hidden + scored.mlp(scored.post_attention_layernorm(pruning.hidden))
    torch.testing.assert_close(rest, plain.hidden_states[2])
    dropped = [index for index in range(30) if index not in pruning.keep]
    for layer, weights in enumerate(masked.attentions):
        seen = weights[0, :, 24:, dropped].abs().max()
        assert (seen == 0) if layer >= 2 else (seen > 0)


def test_hooks_are_gone_afterwards(tiny_llava: Path) -> None:
    decoder = load_model(tiny_llava, FAMILIES["llava"]).get_decoder()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = decoder(input_ids=ids).last_hidden_state
        with pruned(decoder, 1, torch.ones(20, dtype=torch.bool), 5):
            decoder(input_ids=ids)
        torch.testing.assert_close(decoder(input_ids=ids).last_hidden_state, before, rtol=0, atol=0)
