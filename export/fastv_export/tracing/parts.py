"""The parts that a model is split into, as torch modules over transformers' own layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from fastv_export import hf
from fastv_export.hf import probe as hf_probe
from fastv_export.tracing.attention import Cache, SignalRecorder, StaticCache, visibility
from fastv_export.tracing.pre_rope import before_rotary
from fastv_runtime.config.cuts import Signal


class VisionPart(nn.Module):
    """Tower and projector: the graph's inputs -> visual features [N, D], and those of deepstack.

    encode: called with the model and the inputs by their names.
    """

    def __init__(self, model: nn.Module, encode: Callable[..., Any], inputs: Sequence[str]):
        super().__init__()
        self.model = model
        self._encode = encode
        self._inputs = tuple(inputs)

    def forward(self, inputs: list[torch.Tensor]) -> Any:
        named = dict(zip(self._inputs, inputs, strict=True))
        # Pixels arrive in fp32. Most towers cast them to their weights' precision, SmolVLM's does not, and TensorRT's
        # convolution takes no mixture.
        named["pixel_values"] = named["pixel_values"].to(next(self.model.parameters()).dtype)
        return self._encode(self.model, **named)


class DecoderPart(nn.Module):
    """Layers `first` to `stop` - 1 of a decoder over static caches.

    The decoder is cut inside a layer, between its attention, which is the last to need all tokens, and its MLP. Without
    `head` (the prefix) the last layer ends with its attention, and `signals` (`fastv_runtime.config.cuts`) are outputs;
    without `rotary`, scores are of queries and keys as they are before rotary embedding. A part that does not begin
    with layer 0 begins with the MLP of the layer before. `deepstack` is added after the first of these layers, one
    after each that ends here. With `head`, only the last row goes on, through the final norm and the head, to `logits`
    f32 [1, 1, V] and the likeliest `token` i64 [1, 1] (the suffix, or the whole decoder). Layer 0 is given what the
    decoder makes of embeddings: some multiply them.
    """

    def __init__(
        self,
        decoder: Any,
        first: int,
        stop: int,
        *,
        head: nn.Module | None = None,
        signals: Sequence[Signal] = (),
        rotary: bool = True,
    ):
        super().__init__()
        layers = list(hf.layers_of(decoder)[first:stop])
        if head is None:
            layers[-1] = hf.without_mlp(layers[-1])
        if first:
            layers.insert(0, hf.without_attention(hf.layers_of(decoder)[first - 1]))
        self.layers = nn.ModuleList(layers)
        self.rotary = hf.rotary_of(decoder)
        self._entry = 1.0 if first else hf_probe.entry_factor(decoder)
        self.norm = hf.norm_of(decoder) if head is not None else None
        self.head = head
        self._first = first
        self._scored_layer = stop - 1
        self._signals = tuple(signals)
        self._rotated_scores = rotary

    def forward(
        self,
        hidden: Float[torch.Tensor, "1 S D"],
        position_ids: Int[torch.Tensor, "... 1 S"],
        write_index: Int[torch.Tensor, " 1"],
        deepstack: list[Float[torch.Tensor, "1 S D"]],
        past: list[Cache],
    ) -> tuple[torch.Tensor, ...]:
        cache = StaticCache(past, write_index, self._first)
        recorder = SignalRecorder(self._signals, self._scored_layer, cache) if self._rotated_scores else None
        mask = visibility(hidden.shape[1], past[0][0].shape[2], write_index)
        rotary = hf.cosines_and_sines(self.rotary, hidden, position_ids)
        if self._entry != 1.0:
            hidden = hidden * self._entry
        scored = nullcontext() if self._rotated_scores else before_rotary(hf.attention_of(self.layers[-1]))
        with scored as pre_rope:
            for index, layer in enumerate(self.layers):
                hidden = hf.run_layer(layer, hidden, mask=mask, rotary=rotary, cache=cache, recorder=recorder)
                if index < len(deepstack):
                    hidden = hidden + deepstack[index]
        present = [tensor for pair in cache.present for tensor in pair]
        if self.head is not None and self.norm is not None:
            # The head over all rows of a prompt would cost as much as a layer; only the last row's logits are read.
            logits = self.head(self.norm(hidden[:, -1:, :])).float()
            # Chosen in the graph, so that a device that decodes greedily sends the host one number per token.
            return (logits, logits.argmax(-1), *present)
        if pre_rope is not None:
            return (hidden, pre_rope.scores(), *present)
        assert recorder is not None
        return (hidden, *(recorder.found[name] for name in self._signals if name != "change"), *present)
