"""One sample through the model once, and through the layers from K on for every plan.

Layers before K see all tokens whatever is pruned later, so their output is kept and only the rest runs again, on the
rows that stay. The answer is forced: every plan is shown the unpruned model's own greedy answer, token by token, and
what it would have said at each place is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from fastv_calib.measurement.rankers import SeenByAll
from fastv_calib.samples.inputs import DecoderInputs
from fastv_export import hf
from fastv_export.hf import probe as hf_probe


@dataclass
class Dense:
    """The unpruned model on one prompt of S tokens, and on its own greedy answer of n tokens."""

    inputs: DecoderInputs
    tokens: list[int]
    logits: Float[torch.Tensor, "n V"]
    """From which each token of the answer was chosen."""
    hidden: dict[int, Float[torch.Tensor, "1 rows D"]]
    """Input of layer K, by K: the prompt's rows and those of all answer tokens but the last."""
    attended: dict[int, Float[torch.Tensor, "1 S D"]]
    """States after the attention of layer K-1, by K: the prompt's rows."""
    scores: list[Float[torch.Tensor, " S"]]
    """By layer: softmax attention of the prompt's last row, mean over heads."""
    pre_rope: dict[int, Float[torch.Tensor, " S"]]
    """The same of layer K-1 without rotary embedding, by K; empty unless asked for."""
    rotary: tuple[torch.Tensor, torch.Tensor]
    """Cosines and sines of all rows."""

    def seen(self, layer: int) -> SeenByAll:
        """What rankers look at when K is `layer`."""
        visual = self.inputs.visual
        return SeenByAll({"scores": self.scores[layer - 1]}, self.pre_rope.get(layer), self.attended[layer][0], visual)

    def attention(self) -> list[float]:
        """By layer: the share of the last row's attention that visual tokens get."""
        return [float(scores[self.inputs.visual].sum()) for scores in self.scores]


class Sweep:
    """A stock model (eager attention) that answers prompts, unpruned once and then pruned in many ways.

    layers: every K. pre_rope: whether scores without rotary embedding are wanted too.
    """

    def __init__(self, decoder: Any, head: nn.Module, layers: Sequence[int], *, pre_rope: bool = False):
        self._decoder, self._head, self._layers = decoder, head, tuple(layers)
        self._pre_rope = pre_rope

    @torch.no_grad()
    def dense(self, inputs: DecoderInputs, stop: frozenset[int], limit: int) -> Dense:
        """Answer greedily, up to a token of `stop` (which counts as one) or `limit` tokens."""
        tokens: list[int] = []
        logits: list[torch.Tensor] = []
        with self._observed(inputs.visual.numel()) as seen:
            hidden, cache = _prompt(self._decoder, inputs)
            while True:
                logits.append(self._head(hidden[:, -1])[0].float())
                tokens.append(int(logits[-1].argmax()))
                if tokens[-1] in stop or len(tokens) == limit:
                    break
                positions = inputs.position_ids.max() + torch.full_like(inputs.position_ids[..., :1], len(tokens))
                step = self._embed(tokens[-1:])
                hidden, cache = hf.run_decoder(self._decoder, step, _as_taken(positions), cache=cache)
        states = {layer: torch.cat(rows, 1) for layer, rows in seen.hidden.items()}
        positions = _answered(inputs.position_ids, len(tokens) - 1)
        rotary = hf.rotary_of(self._decoder)(states[self._layers[0]], _as_taken(positions))
        return Dense(inputs, tokens, torch.stack(logits), states, seen.attended, seen.scores, seen.pre_rope, rotary)

    @torch.no_grad()
    def pruned(self, dense: Dense, layer: int, keeps: Int[torch.Tensor, "plans M"]) -> Float[torch.Tensor, "plans n V"]:
        """Logits at each place of the unpruned answer, with only the tokens `keeps` of the prompt from layer K on.

        Plans that keep as many tokens run together.
        """
        prompt, answer = dense.inputs.visual.numel(), len(dense.tokens)
        rows = torch.cat([keeps, torch.arange(prompt, prompt + answer - 1).expand(len(keeps), -1)], 1)
        # [.., 1, S, Dh] -> [.., plans, rows, Dh]
        cosine, sine = (table.squeeze(-3)[..., rows, :] for table in dense.rotary)
        last = len(hf.layers_of(self._decoder))
        hidden = self._through(layer, last, dense.hidden[layer][0, rows], (cosine, sine), dense.inputs, keeps)
        logits: torch.Tensor = self._head(hf.norm_of(self._decoder)(hidden[:, -answer:]))
        return logits.float()

    @torch.no_grad()
    def forced(self, inputs: DecoderInputs, reference: Dense, layer: int) -> Dense:
        """The model as it is now, shown another one's answer, up to the input of layer K = `layer`."""
        prompt = inputs.visual.numel()
        said = self._embed(reference.tokens[:-1])
        hidden = torch.cat([inputs.embedded, said], 1)
        positions = _answered(inputs.position_ids, said.shape[1])
        rotary = hf.rotary_of(self._decoder)(hidden, _as_taken(positions))
        with self._observed(prompt) as seen:
            hidden = self._through(0, layer, hidden, rotary, inputs, torch.arange(prompt)[None])
        states = {layer: hidden}
        return Dense(
            inputs,
            reference.tokens,
            reference.logits,
            states,
            seen.attended,
            seen.scores,
            seen.pre_rope,
            rotary,
        )

    def _embed(self, tokens: list[int]) -> Float[torch.Tensor, "1 n D"]:
        rows: torch.Tensor = hf.embeddings_of(self._decoder)(torch.tensor([tokens], dtype=torch.int64))
        return rows

    def _through(
        self,
        first: int,
        last: int,
        hidden: Float[torch.Tensor, "plans rows D"],
        rotary: tuple[torch.Tensor, torch.Tensor],
        inputs: DecoderInputs,
        keeps: Int[torch.Tensor, "plans M"],
    ) -> Float[torch.Tensor, "plans rows D"]:
        """Layers `first` to `last` - 1, on rows that begin with the tokens `keeps` of the prompt."""
        if first == 0:
            hidden = hidden * hf_probe.entry_factor(self._decoder)
        mask = torch.full((hidden.shape[1],) * 2, torch.finfo(hidden.dtype).min).triu(1)[None, None]
        for index, each in enumerate(hf.layers_of(self._decoder)[first:last], first):
            hidden = hf.run_layer(each, hidden, mask=mask, rotary=rotary)
            if index < len(inputs.deepstack):
                hidden[:, : keeps.shape[1]] += inputs.deepstack[index][0, keeps]
        return hidden

    @contextmanager
    def _observed(self, prompt: int) -> Iterator[_Seen]:
        """Within this context the decoder's forwards leave their states behind."""
        seen = _Seen({layer: [] for layer in self._layers})

        def scores(inputs: hf.LayerInputs, weights: torch.Tensor) -> None:
            if not weights.shape[2] == weights.shape[3] >= prompt:
                return
            seen.scores.append(_last_row(weights, prompt))
            following = len(seen.scores)
            if self._pre_rope and following in self._layers:
                seen.pre_rope[following] = _last_row(inputs.weights_without_rotary(), prompt)

        def hidden(layer: int, inputs: hf.LayerInputs) -> None:
            seen.hidden[layer].append(inputs.hidden)

        def attended(layer: int, states: torch.Tensor) -> None:
            if states.shape[1] >= prompt:
                seen.attended[layer] = states[:, :prompt]

        layers = hf.layers_of(self._decoder)
        handles = [hf.after_attention(each, scores) for each in layers]
        for layer in self._layers:
            handles.append(hf.before_layer(layers[layer], partial(hidden, layer)))
            handles.append(hf.before_mlp(layers[layer - 1], partial(attended, layer)))
        with hf.hooked(*handles):
            yield seen


@dataclass
class _Seen:
    hidden: dict[int, list[torch.Tensor]]
    scores: list[torch.Tensor] = field(default_factory=list)
    attended: dict[int, torch.Tensor] = field(default_factory=dict)
    pre_rope: dict[int, torch.Tensor] = field(default_factory=dict)


def _last_row(weights: Float[torch.Tensor, "1 H rows rows"], prompt: int) -> Float[torch.Tensor, " S"]:
    """Of the prompt's S rows, before those of an answer."""
    return weights[0, :, prompt - 1, :prompt].float().mean(0)


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
