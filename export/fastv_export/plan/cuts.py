"""The cuts that are asked for, and whether they make sense for a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from fastv_export.plan.options import CutOption, Options
from fastv_export.plan.rule import KEEP, MOST, rule_layer
from fastv_export.rankers import RANKERS
from fastv_runtime.config.cuts import MOST_CUTS, Cut
from fastv_runtime.config.layouts import Vision
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.errors import UserError


def cuts_of(options: Options, layers: int) -> tuple[CutOption, ...]:
    """Those asked for of a decoder of `layers` layers, each with its ranker; none for the baseline."""
    if not options.prune:
        return ()
    if options.cuts:
        return tuple(replace(cut, ranker=cut.ranker or options.ranker) for cut in options.cuts)
    layer = rule_layer(layers) if options.layer is None else options.layer
    keep = (KEEP if options.share is None else MOST) if options.keep is None else options.keep
    return (CutOption(layer, keep, options.ranker),)


def check_cuts(options: Options, cuts: Sequence[CutOption], layers: int, vision: Vision) -> None:
    """UserError for cuts that make no sense for a decoder of so many layers. cuts: as `cuts_of` has them."""
    if len(cuts) > MOST_CUTS:
        raise UserError(f"`cuts`: {len(cuts)} of them: a plan has {MOST_CUTS} at most")
    if cuts and layers < 2:
        raise UserError(
            f"`layer` {cuts[0].layer}: this decoder has one layer, and pruning takes two: one whose attention scores "
            "visual tokens, and one that runs without those that are dropped; export it unpruned (`prune`)"
        )
    for cut in cuts:
        if not 1 <= cut.layer < layers:
            raise UserError(
                f"{_said(options, cut, 'layer')}: must be 1 to {layers - 1}; this decoder has {layers} layers and the "
                "scores come from the layer before"
            )
        if not 0 < cut.keep <= 1:
            raise UserError(
                f"{_said(options, cut, 'keep')}: must be above 0 and at most 1, the fraction of visual tokens kept"
            )
        if kept_count(vision.tokens, cut.keep) == 0:
            raise UserError(
                f"{_said(options, cut, 'keep')}: keeps none of {vision.tokens} visual tokens: give a larger one"
            )
        if cut.ranker not in RANKERS:
            raise UserError(f"{_said(options, cut, 'ranker')}: no such ranker; known rankers: {', '.join(RANKERS)}")
    _check_order(cuts)
    _check_share(options, cuts)


def _said(options: Options, cut: CutOption, part: str) -> str:
    """A part of a cut as it was asked for: by an option of its own, or as one of several."""
    value = getattr(cut, part)
    value = f"{value:g}" if isinstance(value, float) else value
    return f"`cuts` {cut.layer}:{cut.keep:g}: {part} {value}" if options.cuts else f"`{part}` {value}"


def _check_order(cuts: Sequence[CutOption]) -> None:
    """UserError for cuts that do not follow one another, or of which one can do nothing."""
    for before, after in pairwise(cuts):
        said = f"`cuts` {after.layer}:{after.keep:g}:"
        if after.layer <= before.layer:
            raise UserError(
                f"{said} its layer does not come after {before.layer}, that of the cut before: give cuts from the "
                "first layer to the last"
            )
        if after.keep >= before.keep:
            raise UserError(
                f"{said} keeps no fewer visual tokens than the cut before, which keeps {before.keep:g}: fractions are "
                "of all visual tokens of the prompt, so each must be lower"
            )


def idle_notes(cuts: Sequence[Cut], vision: Vision) -> list[str]:
    """Cuts that drop none of an image's visual tokens, for people: a plan may have them for the sake of other keeps."""
    left, notes = vision.tokens, []
    for cut in cuts:
        before, left = left, kept_count(vision.tokens, cut.keep)
        if left == before:
            notes.append(
                f"note: the cut at layer {cut.layer} drops none of the {left} visual tokens of an image that come to it"
            )
    return notes


def _check_share(options: Options, cuts: Sequence[CutOption]) -> None:
    """UserError for a share that makes no sense, or of scores that nothing reads."""
    share = options.share
    if share is None:
        return
    if not 0 < share < 1:
        raise UserError(f"`share` {share:g}: must be above 0 and below 1, of the attention to visual tokens")
    if not cuts:
        raise UserError(f"`share` {share:g}: an unpruned model (`prune`) has none: leave one of them out")
    for cut in cuts:
        if "scores" not in RANKERS[cut.ranker or options.ranker].signals:
            reading = ", ".join(name for name, ranker in RANKERS.items() if "scores" in ranker.signals)
            raise UserError(
                f"`share` {share:g}: is of the last prompt token's scores, which `ranker` {cut.ranker}, at layer "
                f"{cut.layer}, does not read: leave `share` out, or use one of {reading}"
            )
