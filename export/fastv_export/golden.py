"""Golden vectors: inputs of every graph and the outputs that transformers gives for them, for self-tests anywhere.

One short prompt (prefill) and one token after it (decode). Names in the file: `graph/case/in|out/tensor`. Caches hold
the rows that a case writes or reads, not their whole capacity.
"""

from __future__ import annotations

from typing import Any

import torch

from fastv_export.families import Family
from fastv_export.reference import Pruning, pruned
from fastv_runtime.bundle import Plan, Vision
from fastv_runtime.lengths import kept_count

Tensors = dict[str, torch.Tensor]
SEED = 0
TEXT = 8
VISUAL = 16
"""Tokens of the golden prompt: enough to prune, few enough that a 13B model's caches stay small."""


def golden_vectors(model: Any, family: Family, vision: Vision, plan: Plan) -> Tensors:
    """Golden vectors of a model (fp32, eager attention) for every graph of a plan, but `select`'s random ranker."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        tensors = _vision_case(model, family, vision, generator)
        decoder, head = family.decoder(model), family.head(model)
        ids = torch.randint(decoder.embed_tokens.num_embeddings, (TEXT + VISUAL + 1,), generator=generator)
        embedded = decoder.embed_tokens(ids)[None]
        prunable = torch.zeros(TEXT + VISUAL, dtype=torch.bool)
        prunable[TEXT // 2 : TEXT // 2 + VISUAL] = True
        if plan.layer is None:
            tensors |= _dense_case(decoder, head, embedded)
        else:
            tensors |= _split_case(decoder, head, embedded, prunable, plan.layer, plan.keep)
    # Slices share memory with what they were cut from; the file wants tensors that stand alone.
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _vision_case(model: Any, family: Family, vision: Vision, generator: torch.Generator) -> Tensors:
    pixel_values = torch.randn(1, 3, vision.image_height, vision.image_width, generator=generator)
    features = family.encode(model, pixel_values)
    return {"vision/prefill/in/pixel_values": pixel_values, "vision/prefill/out/image_features": features}


def _dense_case(decoder: Any, head: Any, embedded: torch.Tensor) -> Tensors:
    length = embedded.shape[1] - 1
    tensors: Tensors = {}
    cache = None
    for case, rows, start in (("prefill", embedded[:, :length], 0), ("decode", embedded[:, length:], length)):
        output = decoder(inputs_embeds=rows, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tensors |= _layer_case("decoder", case, rows, torch.arange(start, start + rows.shape[1])[None], start)
        tensors[f"decoder/{case}/out/logits"] = head(output.last_hidden_state[:, -1:])
    tensors |= _caches("decoder", cache, range(len(decoder.layers)), length, torch.arange(length))
    return tensors


def _split_case(
    decoder: Any, head: Any, embedded: torch.Tensor, prunable: torch.Tensor, layer: int, keep: float
) -> Tensors:
    length = prunable.numel()
    count = TEXT + kept_count(VISUAL, keep)
    positions = torch.arange(length)[None]
    with pruned(decoder, layer, prunable, count) as prefill:
        output = decoder(inputs_embeds=embedded[:, :length], use_cache=True)
        kept = prefill.keep
        logits = head(output.last_hidden_state[:, -1:])
        before = prefill.hidden
        decoded = _Capture(decoder.layers[layer])
        token = embedded[:, length:]
        next_output = decoder(inputs_embeds=token, past_key_values=output.past_key_values, use_cache=True)
        next_hidden = decoded.stop()
    cache = next_output.past_key_values
    last = torch.tensor([[length]])
    return {
        **_layer_case("prefix", "prefill", embedded[:, :length], positions, 0),
        "prefix/prefill/out/hidden_out": before,
        "prefix/prefill/out/scores": prefill.scores[None],
        **_layer_case("prefix", "decode", token, last, length),
        "prefix/decode/out/hidden_out": next_hidden,
        **_caches("prefix", cache, range(layer), length, torch.arange(length)),
        **_select_case(prefill, prunable, positions, count),
        **_layer_case("suffix", "prefill", before[:, kept], positions[:, kept], 0),
        "suffix/prefill/out/logits": logits,
        **_layer_case("suffix", "decode", next_hidden, last, count),
        "suffix/decode/out/logits": head(next_output.last_hidden_state[:, -1:]),
        **_caches("suffix", cache, range(layer, len(decoder.layers)), length, kept),
    }


def _select_case(prefill: Pruning, prunable: torch.Tensor, positions: torch.Tensor, count: int) -> Tensors:
    kept = prefill.keep
    return {
        "select/prefill/in/hidden": prefill.hidden,
        "select/prefill/in/scores": prefill.scores[None],
        "select/prefill/in/position_ids": positions,
        "select/prefill/in/prunable": prunable[None],
        "select/prefill/in/length": torch.tensor([count]),
        "select/prefill/out/pruned_hidden": prefill.hidden[:, kept],
        "select/prefill/out/pruned_position_ids": positions[:, kept],
        "select/prefill/out/keep": kept[None],
    }


def _layer_case(graph: str, case: str, hidden: torch.Tensor, positions: torch.Tensor, write_index: int) -> Tensors:
    return {
        f"{graph}/{case}/in/hidden": hidden,
        f"{graph}/{case}/in/position_ids": positions,
        f"{graph}/{case}/in/write_index": torch.tensor([write_index]),
    }


def _caches(graph: str, cache: Any, layers: range, length: int, kept: torch.Tensor) -> Tensors:
    """Cache rows after the prompt, which decode reads, and the row that decode writes."""
    tensors: Tensors = {}
    for layer in layers:
        for kind, values in (("key", cache.layers[layer].keys), ("value", cache.layers[layer].values)):
            prompt = values[:, :, :length][:, :, kept]
            tensors[f"{graph}/prefill/out/present_{kind}_{layer}"] = prompt
            tensors[f"{graph}/decode/in/past_{kind}_{layer}"] = prompt
            tensors[f"{graph}/decode/out/present_{kind}_{layer}"] = torch.cat([prompt, values[:, :, length:]], dim=2)
    return tensors


class _Capture:
    """The input of a layer at its next call."""

    def __init__(self, layer: Any):
        self._hidden = torch.empty(0)
        self._handle = layer.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden = args[0] if args else kwargs["hidden_states"]

    def stop(self) -> torch.Tensor:
        self._handle.remove()
        return self._hidden
