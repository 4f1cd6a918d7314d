"""The reference in bounded memory is transformers' own model: the same outputs, and no parameter in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.streamed import StreamedParameter, stream_model
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model

LLAVA = FAMILIES["llava"]
SMALL = 1 << 12
"""Bytes of a block that hold a few rows of the tiny model's matrices."""


@torch.no_grad()
def outputs(model: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, *[model.config.vision_config.image_size] * 2, generator=generator)
    features = LLAVA.expected(model, {"pixel_values": pixels})
    ids = torch.randint(200, (1, 11), generator=generator)
    output = LLAVA.decoder(model)(input_ids=ids, use_cache=True)
    logits = LLAVA.head(model)(output.last_hidden_state)
    return [features, logits, *(layer.keys for layer in output.past_key_values.layers)]


@pytest.mark.parametrize("block", [SMALL, 8 << 20], ids=["small-blocks", "whole-matrices"])
def test_outputs_are_those_of_the_loaded_model(tiny_llava: Path, block: int) -> None:
    streamed = stream_model(Checkpoint(tiny_llava), LLAVA, block=block)
    parameters = list(streamed.parameters())
    assert parameters
    assert all(isinstance(each, StreamedParameter) for each in parameters)
    for ours, theirs in zip(outputs(streamed), outputs(load_model(tiny_llava, LLAVA)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_weights_are_rounded_to_what_the_bundle_computes_from(tiny_llava: Path) -> None:
    rounded = load_model(tiny_llava, LLAVA)
    for parameter in rounded.parameters():  # and not rotary frequencies, which are no weights
        parameter.data = parameter.half().float()
    streamed = stream_model(Checkpoint(tiny_llava), LLAVA, "float16", block=SMALL)
    for ours, theirs in zip(outputs(streamed), outputs(rounded), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_is_read_is_reported(tiny_llava: Path) -> None:
    counts: list[int] = []
    checkpoint = Checkpoint(tiny_llava)
    outputs(stream_model(checkpoint, LLAVA, read=counts.append, block=SMALL))
    stored = sum(tensor.nbytes for name, tensor in checkpoint.tensors.items() if "embed_tokens" not in name)
    # Some of the last vision layer is not used, some embeddings are not looked up, small ones are read more than once.
    assert 0.8 * stored < sum(counts) < 1.5 * stored
