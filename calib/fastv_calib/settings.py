"""What is to be measured, as a user asks for it, and what that is for one checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastv_calib import defaults
from fastv_calib.plans import choosable, default_chains, default_layers, points, ranked
from fastv_calib.samples.baselines import baselines_of
from fastv_export.calibration import BASELINES, CalibrationSettings
from fastv_export.points import Chain, PointCut, said
from fastv_export.quantization.presets import PRESETS
from fastv_export.rankers import RANKERS
from fastv_export.rankers.parts.needs import crowded
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cuts import MOST_CUTS
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.errors import UserError

PRECISIONS = tuple(each.name for each in PRESETS.values() if each.measured)
CutAsked = tuple[int, float] | tuple[int, float, str]
"""K, keep and, unless every one of `rankers` is to be tried, the ranker."""


@dataclass(frozen=True)
class Asked:
    """What the user may say of what is measured. None: what suits the checkpoint."""

    layers: tuple[int, ...] | None = None
    keeps: tuple[float, ...] = defaults.KEEPS
    rankers: tuple[str, ...] = defaults.RANKERS
    cuts: tuple[tuple[CutAsked, ...], ...] | None = None
    baselines: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = defaults.PRECISIONS
    answer_tokens: int = defaults.ANSWER_TOKENS
    image_tokens: int | None = None

    def settled(self, decoder: DecoderConfig, vision: Vision, video: VideoLayout | None) -> CalibrationSettings:
        """What is measured of a checkpoint, in full. video: None where the family takes none.

        Raises UserError for what makes no sense for it.
        """
        count = decoder.num_hidden_layers
        if count < 2:
            raise UserError("`layers`: this decoder has one layer, and pruning takes two: nothing can be chosen")
        self._check(count)
        layers = default_layers(count) if self.layers is None else self.layers
        if self.cuts is not None:
            cuts = tuple(chain for asked in self.cuts for chain in _each_ranker(asked, self.rankers))
            for chain in cuts:
                _check_chain(chain, count)
        else:
            # Who says which single cuts to try has them alone.
            tried = default_chains(count, layers, self.keeps) if self.layers is None else []
            cuts = tuple(ranked(tried, self.rankers))
        possible = baselines_of(vision)
        for name in self.baselines or ():
            if name not in possible:
                raise UserError(
                    f"`baselines` {name}: not available for this family, whose images all become {vision.tokens} "
                    f"visual tokens: give {' '.join(possible)}"
                )
        settings = CalibrationSettings(
            layers=layers,
            keeps=self.keeps,
            rankers=self.rankers,
            cuts=cuts,
            baselines=possible if self.baselines is None else self.baselines,
            answer_tokens=self.answer_tokens,
            image_tokens=self.image_tokens,
            precisions=self.precisions,
        )
        _check_plans(settings, video)
        return settings

    def _check(self, count: int) -> None:
        """UserError for values that make no sense by themselves."""
        for name in ("keeps", "rankers", "precisions"):
            if not getattr(self, name):
                raise UserError(f"`{name}`: is empty: give one or more")
        if self.layers == () and not self.cuts:
            raise UserError("`layers`: is empty: give one or more, or `cuts`")
        for layer in self.layers or ():
            _check_layer("layers", layer, count)
        for keep in self.keeps:
            if not 0 < keep < 1:
                raise UserError(f"`keeps` {keep:g}: must be above 0 and below 1; the unpruned model is always measured")
        for name, values, known in (
            ("rankers", self.rankers, RANKERS),
            ("baselines", self.baselines or (), BASELINES),
        ):
            for value in values:
                if value not in known:
                    raise UserError(f"`{name}` {value}: not known; there are {', '.join(known)}")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise UserError(f"`precisions` {precision}: not measured; there are {', '.join(PRECISIONS)}")
        for name in ("layers", "keeps", "rankers", "precisions", "baselines"):
            values = getattr(self, name) or ()
            if len(set(values)) != len(values):
                raise UserError(f"`{name}` {' '.join(map(str, values))}: give each only once")
        for name, number in (("answer_tokens", self.answer_tokens), ("image_tokens", self.image_tokens)):
            if number is not None and number < 1:
                raise UserError(f"`{name}` {number}: must be at least 1")


def _each_ranker(asked: Sequence[CutAsked], rankers: Sequence[str]) -> Iterator[Chain]:
    """A chain, with every one of `rankers` at all of its cuts that do not say theirs."""
    for ranker in rankers if any(len(cut) == 2 for cut in asked) else ("",):
        yield tuple(PointCut(layer=cut[0], keep=cut[1], ranker=cut[2] if len(cut) == 3 else ranker) for cut in asked)


def _check_layer(option: str, layer: int, count: int) -> None:
    if not 1 <= layer < count:
        raise UserError(f"`{option}` {layer}: must be 1 to {count - 1}; this decoder has {count} layers")


def _check_chain(chain: Chain, count: int) -> None:
    """UserError for cuts that no plan can have."""
    if not 1 <= len(chain) <= MOST_CUTS:
        raise UserError(f"`cuts`: a plan of {len(chain)} cuts: 1 to {MOST_CUTS} are possible")
    for cut in chain:
        _check_layer("cuts", cut.layer, count)
        if not 0 < cut.keep < 1:
            raise UserError(f"`cuts` {cut.layer}:{cut.keep:g}: the fraction kept must be above 0 and below 1")
        if cut.ranker not in RANKERS:
            raise UserError(f"`cuts` {cut}: no such ranker; there are {', '.join(RANKERS)}")
    for before, after in pairwise(chain):
        if after.layer <= before.layer or after.keep >= before.keep:
            raise UserError(
                f"`cuts` {said(chain)}: layers must rise and fractions kept, which are of all visual tokens, must fall"
            )
    wrong = crowded((cut.layer, cut.ranker) for cut in chain)
    if wrong is not None:
        _, layer, ranker = wrong
        raise UserError(
            f"`cuts` {said(chain)}: {ranker} reads two layers before layer {layer}, after any earlier cut: "
            "give a later layer, or another ranker"
        )


def _check_plans(settings: CalibrationSettings, video: VideoLayout | None) -> None:
    """UserError where nothing could be chosen, one plan is asked for twice, or an export would refuse one."""
    found = points(settings)
    for cut in (cut for point in found for cut in point.cuts):
        if video is None and "change" in RANKERS[cut.ranker].signals:
            raise UserError(
                f"`rankers` {cut.ranker}: it compares the frames of a video, and this model takes none: leave it out"
            )
    if not any(point.cuts for point in found):
        raise UserError(
            f"`layers` {' '.join(map(str, settings.layers))}: none of `rankers` {' '.join(settings.rankers)} can "
            "score there: give a later layer"
        )
    if not any(choosable(point) for point in found):
        raise UserError(f"`rankers` {' '.join(settings.rankers)}: a control is not chosen: add fastv")
    twice = next((point for place, point in enumerate(found) if point in found[:place]), None)
    if twice is not None:
        raise UserError(f"`cuts` {said(twice.cuts)}: is measured already: give each plan only once")
