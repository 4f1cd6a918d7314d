"""Chains of cuts on one answered prompt: layers between two cuts run once, on the rows that the first of them left.

Plans share what they have in common. A second cut at layer K looks at the states of layer K-1 as its own plan has them:
of the rows that are left, computed from these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from fastv_calib.measurement.rankers import Looks, SeenByAll, kept
from fastv_calib.measurement.watching import LayerWatch, hooks
from fastv_calib.samples.inputs import DecoderInputs
from fastv_export import hf
from fastv_export.hf import probe as hf_probe
from fastv_export.points import Chain
from fastv_runtime.config.lengths import kept_count


@dataclass(frozen=True)
class Arrived:
    """What comes to layer K: L rows of the prompt, and those of all answer tokens but the last."""

    rows: Int[torch.Tensor, " L"]
    """Which ones of the prompt, ascending."""
    hidden: Float[torch.Tensor, "R D"]
    """Input of layer K, an answer's rows included."""
    seen: SeenByAll | None
    """None at layer 0, where no cut is."""


@dataclass(frozen=True)
class Answered:
    """A prompt of S tokens with an answer of n, which may be another model's."""

    inputs: DecoderInputs
    tokens: list[int]
    rotary: tuple[torch.Tensor, torch.Tensor]
    """Cosines and sines of all rows."""
    arrived: Mapping[int, Arrived]
    """By K: all rows of the prompt."""


@dataclass(frozen=True)
class Pruned:
    """What a plan makes of it."""

    logits: Float[torch.Tensor, "n V"]
    """At each place of the answer."""
    rows: Int[torch.Tensor, " M"]
    """The prompt's rows that are left after the last cut, ascending."""


@dataclass
class _Stem:
    """The first cuts of some plans, run on to where those cut next, or end."""

    start: int
    """Layer that its rows come to."""
    rows: Int[torch.Tensor, " M"]
    hidden: Float[torch.Tensor, "R D"]
    following: dict[int, set[str]]
    """Rankers of cuts that come next, by their layer."""
    ends: bool
    """Whether these cuts are a whole plan."""
    arrived: dict[int, Arrived] = field(default_factory=dict)
    pruned: Pruned | None = None


class Chains:
    """Runs chains of cuts on a loaded model (eager attention)."""

    def __init__(self, decoder: Any, head: nn.Module):
        self._decoder, self._head = decoder, head

    @torch.no_grad()
    def __call__(self, answered: Answered, chains: Sequence[Chain]) -> list[Pruned]:
        """What each plan makes of the answer. A chain without cuts is the unpruned model."""
        plans = set(chains)
        stems: dict[Chain, _Stem] = {(): self._root(answered, plans)}
        for depth in range(max(map(len, chains), default=0)):
            level = {}
            for chain in dict.fromkeys(each[: depth + 1] for each in chains if len(each) > depth):
                before = stems[chain[:depth]].arrived[chain[depth].layer]
                level[chain] = self._cut(answered.inputs, before, chain, plans)
            for batch in _alike(level.values()):
                self._run(answered, batch)
            stems |= level
        return [_whole(stems[chain]) for chain in chains]

    def _root(self, answered: Answered, plans: set[Chain]) -> _Stem:
        """All rows up to every first cut: as they were seen, or run from the first layer on."""
        first = following((), plans)
        if () not in plans and first.keys() <= answered.arrived.keys():
            return _Stem(0, torch.empty(0), torch.empty(0), first, False, dict(answered.arrived))
        begun = answered.arrived[0]
        stem = _Stem(0, begun.rows, begun.hidden, first, () in plans)
        self._run(answered, [stem])
        return stem

    def _cut(self, inputs: DecoderInputs, before: Arrived, chain: Chain, plans: set[Chain]) -> _Stem:
        """What the last cut of `chain` leaves."""
        cut, visual, count = chain[-1], inputs.visual, int(inputs.visual.sum())
        assert before.seen is not None
        chosen = kept(cut.ranker, before.seen, visual.numel() - count + kept_count(count, cut.keep))
        answer = torch.arange(before.rows.numel(), before.hidden.shape[0])
        hidden = before.hidden[torch.cat([chosen, answer])]
        return _Stem(cut.layer, before.rows[chosen], hidden, following(chain, plans), chain in plans)

    def _run(self, answered: Answered, stems: Sequence[_Stem]) -> None:
        """Run stems that come to the same layer with as many rows side by side, as far as one of them is needed."""
        start, inputs, layers = stems[0].start, answered.inputs, hf.layers_of(self._decoder)
        hidden = torch.stack([stem.hidden for stem in stems])
        rows = torch.stack([stem.rows for stem in stems])
        answer = torch.arange(inputs.visual.numel(), inputs.visual.numel() + len(answered.tokens) - 1)
        places = torch.cat([rows, answer.expand(len(rows), -1)], 1)
        # [.., 1, S, Dh] -> [.., plans, rows, Dh]
        cosine, sine = (table.squeeze(-3)[..., places, :] for table in answered.rotary)
        mask = torch.full((hidden.shape[1],) * 2, torch.finfo(hidden.dtype).min).triu(1)[None, None]
        if start == 0:
            hidden = hidden * hf_probe.entry_factor(self._decoder)
        watches = {
            cut: LayerWatch(Looks.of(ranker for stem in stems for ranker in stem.following.get(cut, ())), rows.shape[1])
            for cut in {cut for stem in stems for cut in stem.following}
        }
        last = len(layers) if any(stem.ends for stem in stems) else max(watches)
        with hf.hooked(*hooks(self._decoder, watches, range(start, last))):
            for index in range(start, last):
                hidden = hf.run_layer(layers[index], hidden, mask=mask, rotary=(cosine, sine))
                if index < len(inputs.deepstack):
                    hidden[:, : rows.shape[1]] += inputs.deepstack[index][0, rows]
                for place, stem in enumerate(stems):
                    if index + 1 in stem.following:
                        seen = watches[index + 1].seen(place, inputs, stem.rows)
                        stem.arrived[index + 1] = Arrived(stem.rows, hidden[place].clone(), seen)
        if last == len(layers):
            logits = self._head(hf.norm_of(self._decoder)(hidden[:, -len(answered.tokens) :])).float()
            for place, stem in enumerate(stems):
                stem.pruned = Pruned(logits[place], stem.rows)


def following(cuts: Chain, plans: Iterable[Chain]) -> dict[int, set[str]]:
    """Rankers of the cuts that come next in plans that begin with `cuts`, by their layer."""
    found: dict[int, set[str]] = {}
    for plan in plans:
        if len(plan) > len(cuts) and plan[: len(cuts)] == cuts:
            found.setdefault(plan[len(cuts)].layer, set()).add(plan[len(cuts)].ranker)
    return found


def _alike(stems: Iterable[_Stem]) -> list[list[_Stem]]:
    """Those that come to the same layer with as many rows, which run side by side."""
    found: dict[tuple[int, int], list[_Stem]] = {}
    for stem in stems:
        found.setdefault((stem.start, stem.rows.numel()), []).append(stem)
    return list(found.values())


def _whole(stem: _Stem) -> Pruned:
    assert stem.pruned is not None
    return stem.pruned
