"""One sample through the unpruned model: its answer, and what comes to every first cut.

Layers before the first cut see all tokens whatever is pruned later, so their output is kept and only the rest runs
again (`chains`). The answer is forced: every plan is shown the unpruned model's own greedy answer, token by token, and
what it would have said at each place is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from fastv_calib.measurement.chains import Answered, Arrived, Chains
from fastv_calib.measurement.rankers import Looks
from fastv_calib.measurement.watching import LayerWatch, hooks
from fastv_calib.samples.inputs import DecoderInputs
from fastv_export import hf


@dataclass(frozen=True)
class Dense(Answered):
    """The unpruned model on one prompt of S tokens, and on its own greedy answer of n tokens."""

    logits: Float[torch.Tensor, "n V"]
    """From which each token of the answer was chosen."""
    attention: list[float]
    """By layer: the share of the last row's attention that visual tokens get."""


class Sweep:
    """A stock model (eager attention) that answers prompts, unpruned once; `chains` runs it pruned in many ways.

    first: rankers of every first cut, by its layer K.
    """

    def __init__(self, decoder: Any, head: nn.Module, first: Mapping[int, Collection[str]]):
        self._decoder, self._head = decoder, head
        self._looks = {layer: Looks.of(rankers) for layer, rankers in first.items()}
        self.chains = Chains(decoder, head)

    @torch.no_grad()
    def dense(self, inputs: DecoderInputs, stop: frozenset[int], limit: int) -> Dense:
        """Answer greedily, up to a token of `stop` (which counts as one) or `limit` tokens."""
        tokens: list[int] = []
        logits: list[torch.Tensor] = []
        with self._observed(inputs) as seen:
            hidden, cache = _prompt(self._decoder, inputs)
            while True:
                logits.append(self._head(hidden[:, -1])[0].float())
                tokens.append(int(logits[-1].argmax()))
                if tokens[-1] in stop or len(tokens) == limit:
                    break
                positions = inputs.position_ids.max() + torch.full_like(inputs.position_ids[..., :1], len(tokens))
                step = self._embed(tokens[-1:])
                hidden, cache = hf.run_decoder(self._decoder, step, _as_taken(positions), cache=cache)
        begun = self.begun(inputs, tokens)
        rows = begun.arrived[0].rows
        arrived = {
            layer: Arrived(rows, torch.cat(seen.hidden[layer], 1)[0], watch.seen(0, inputs, rows))
            for layer, watch in seen.watches.items()
        }
        return Dense(inputs, tokens, begun.rotary, {**begun.arrived, **arrived}, torch.stack(logits), seen.attention)

    @torch.no_grad()
    def begun(self, inputs: DecoderInputs, tokens: list[int]) -> Answered:
        """A prompt and an answer, by whatever model or on whatever prompt, that no layer has seen."""
        prompt = inputs.visual.numel()
        hidden = torch.cat([inputs.embedded, self._embed(tokens[:-1])], 1)
        positions = _answered(inputs.position_ids, len(tokens) - 1)
        rotary = hf.rotary_of(self._decoder)(hidden, _as_taken(positions))
        return Answered(inputs, tokens, rotary, {0: Arrived(torch.arange(prompt), hidden[0], None)})

    def _embed(self, tokens: list[int]) -> Float[torch.Tensor, "1 n D"]:
        rows: torch.Tensor = hf.embeddings_of(self._decoder)(torch.tensor([tokens], dtype=torch.int64))
        return rows

    @contextmanager
    def _observed(self, inputs: DecoderInputs) -> Iterator[_Seen]:
        """Within this context the decoder's forwards leave their states behind."""
        prompt, layers = inputs.visual.numel(), hf.layers_of(self._decoder)
        seen = _Seen({layer: LayerWatch(looks, prompt) for layer, looks in self._looks.items()})

        def attention(_: hf.LayerInputs, weights: torch.Tensor) -> None:
            if weights.shape[2] == weights.shape[3] == prompt:
                seen.attention.append(float(weights[0, :, -1, inputs.visual].float().sum(-1).mean()))

        def hidden(layer: int, given: hf.LayerInputs) -> None:
            seen.hidden.setdefault(layer, []).append(given.hidden)

        handles = [hf.after_attention(each, attention) for each in layers]
        handles += [hf.before_layer(layers[layer], partial(hidden, layer)) for layer in self._looks]
        with hf.hooked(*handles, *hooks(self._decoder, seen.watches, range(len(layers)))):
            yield seen


@dataclass
class _Seen:
    watches: dict[int, LayerWatch]
    """By K, as all below."""
    hidden: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    attention: list[float] = field(default_factory=list)


def _prompt(decoder: Any, inputs: DecoderInputs) -> tuple[torch.Tensor, Any]:
    return hf.run_decoder(
        decoder,
        inputs.embedded,
        _as_taken(inputs.position_ids),
        deepstack=[each[0, inputs.visual] for each in inputs.deepstack],
        visual=inputs.visual,
    )


def _as_taken(position_ids: Int[torch.Tensor, "axes 1 rows"]) -> Int[torch.Tensor, "... 1 rows"]:
    """Without the axis of axes where there is but one."""
    return position_ids[0] if position_ids.shape[0] == 1 else position_ids


def _answered(position_ids: Int[torch.Tensor, "axes 1 S"], count: int) -> Int[torch.Tensor, "axes 1 rows"]:
    """Positions of a prompt and of `count` tokens after it."""
    after = position_ids.max() + torch.arange(1, count + 1)
    return torch.cat([position_ids, after.expand(position_ids.shape[0], 1, count)], -1)
